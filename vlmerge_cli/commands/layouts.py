"""``vlmerge layouts``: list, show and check naming schemes."""

from pathlib import Path
from typing import Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.errors import LayoutError, UsageError, joined
from vlmerge_cli.flags.common import JsonOption
from vlmerge_cli.layouts import LAYOUTS
from vlmerge_cli.layouts.layout import built_in, named
from vlmerge_cli.layouts.survey import survey


def command(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CKPT]", help="Check the layouts against it.", show_default=False)
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NAME|FILE.yaml", help="Only this one.", show_default="all")
    ] = None,
    show: Annotated[
        str | None, typer.Option("--show", metavar="NAME", help="Print a layout file, as a start for your own.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the layouts; with CKPT, check how well they fit: exit code 1 when none does without a problem."""
    if show is not None:
        if show not in LAYOUTS:
            named(show)
            raise UsageError(f"--show {show}", fix="it shows built-in layouts")
        import vlmerge_cli.layouts as folder

        console.show((Path(str(folder.__file__)).parent / f"{show}.yaml").read_text(encoding="utf-8").rstrip())
        return
    chosen = [named(layout)] if layout is not None else [built_in(name) for name in LAYOUTS]
    if checkpoint is None:
        about = [{"name": one.name, "about": one.about, "num_slots": len(one.rules)} for one in chosen]
        if json:
            console.show_json(about)
        else:
            rows = [(str(one["name"]), str(one["num_slots"]), str(one["about"])) for one in about]
            console.show_table("", ("layout", "slots", "about"), rows)
        return
    with open_checkpoint(checkpoint) as opened:
        surveys = [survey(one, opened.tensors) for one in chosen]
    reports = [
        {
            "layout": found.layout.name,
            "architecture": found.architecture,
            "num_expert_keys": sum(map(len, found.groups.values())),
            "num_single_keys": len(found.single),
            "num_shared_keys": len(found.shared),
            "num_outside_keys": len(found.outside),
            "problems": found.problems() if found.groups or found.single else ["no key fits"],
        }
        for found in surveys
    ]
    if json:
        console.show_json(reports)
    else:
        for report in reports:
            console.show(
                f"{report['layout']}: {report['architecture']}; {report['num_expert_keys']} keys of experts,"
                f" {report['num_single_keys']} stored once, {report['num_shared_keys']} shared in blocks,"
                f" {report['num_outside_keys']} outside"
            )
            problems = report["problems"]
            assert isinstance(problems, list)
            if problems:
                console.show(f"  {joined(problems)}")
    if all(report["problems"] for report in reports):
        raise LayoutError(f"no layout fits {checkpoint} without a problem")
