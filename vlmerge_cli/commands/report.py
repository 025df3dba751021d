"""``vlmerge report``: the tables, figures and page of a run, from its records alone."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import JsonOption

if TYPE_CHECKING:
    from vlmerge_cli.reports.build import Written


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="The folder of a study, a sweep, a fine-tuning or pre-training run.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write.", show_default="RUN/report")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write RUN's records as one HTML page, Markdown, LaTeX, CSV tables and SVG and PNG figures."""
    from vlmerge_cli.reports import build

    place = out or run / "report"
    build.check(place)
    written = build.write(build.load(run), place)
    if json:
        console.show_json(written.to_dict())
    else:
        show_written(written)


def show_written(written: "Written") -> None:
    """The verdicts of a report and where its page is."""
    from vlmerge_cli.reports import build

    if not written.has_figures:
        console.warn(build.NO_FIGURES)
    verdicts = list(written.document.verdicts())
    if verdicts:
        console.show_table("", ("claim of the paper", "verdict"), [(v.claim, v.outcome) for v in verdicts])
        counts = Counter(verdict.outcome for verdict in verdicts)
        console.show(", ".join(f"{number} {outcome}" for outcome, number in counts.most_common()))
    console.show(f"{written.page} and {len(written.files) - 1} files beside it")
