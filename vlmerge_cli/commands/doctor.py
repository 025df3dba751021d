"""``vlmerge doctor``: what paths are, whether they are whole, and what commands would do with them."""

from typing import Annotated

import typer

from vlmerge_cli import api, console
from vlmerge_cli.flags.common import JsonOption
from vlmerge_cli.path_diagnosis import Finding


def command(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Checkpoints, Gram files, run folders, data sets.", show_default=False),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Read headers alone, and look for no NaN.")] = False,
    json: JsonOption = False,
) -> None:
    """Say of each PATH what it is, what is wrong with it, and what commands would do. Nothing is changed.

    Ends with 0 where all is whole, 1 where something cannot be used, 3 where something may not be what it seems.
    """
    found = [api.doctor(path, quick=quick) for path in paths]
    if json:
        console.show_json([one.to_dict() for one in found])
    else:
        console.show_lines(line for one in found for line in _lines(one))
    codes = {one.exit_code for one in found}
    raise typer.Exit(1 if 1 in codes else max(codes))


def _lines(one: Finding) -> list[str]:
    more = [f"  {problem}" for problem in one.problems[1:]]
    kind = [f"  is {one.kind}"] if one.problems else []
    return [one.first_line, *kind, *more, *(f"  {name}: {says}" for name, says in one.commands)]
