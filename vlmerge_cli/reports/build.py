"""From a run folder's records to its report: which pages it has, and all their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlmerge_cli import records
from vlmerge_cli.errors import DataError, UsageError
from vlmerge_cli.outputs.replacing import check_no_cache
from vlmerge_cli.outputs.whole import write_whole
from vlmerge_cli.records import Record
from vlmerge_cli.reports.document import Document, Section
from vlmerge_cli.reports.formats import csv, drawing, html, latex, markdown
from vlmerge_cli.reports.pages import distance, study, sweep, training
from vlmerge_cli.result_base import Result


class Page(NamedTuple):
    """What is made of records of ``kinds``."""

    title: str
    kinds: tuple[str, ...]
    subtitle: Callable[[Sequence[Record]], str]
    sections: Callable[[Sequence[Record]], list[Section]]


#: Tried in this order; a folder with several kinds of record gets the sections of all.
PAGES = (
    Page("Merging a vision-language model", study.KINDS, study.subtitle, study.sections),
    Page("A sweep over merges", sweep.KINDS, sweep.subtitle, sweep.sections),
    Page("Distances between experts", distance.KINDS, distance.subtitle, distance.sections),
    Page("A training run", training.KINDS, training.subtitle, training.sections),
)


NO_FIGURES = "no figures: matplotlib is not installed; pip install 'vlmerge[plot]'"

#: What every report has; a folder with some of these names and not all holds no report.
PARTS = ("index.html", "report.md", "report.tex")


@dataclass(frozen=True)
class Written(Result):
    """A report on disk."""

    document: Document
    page: Path
    files: tuple[Path, ...]
    has_figures: bool

    def to_dict(self) -> dict[str, Any]:
        """The page, all files, and the verdicts with the numbers behind them."""
        rows = [
            {"claim": v.claim, "source": v.source, "verdict": v.outcome, "numbers": [str(f) for f in v.findings]}
            for v in self.document.verdicts()
        ]
        return {"page": str(self.page), "files": [str(path) for path in self.files], "verdicts": rows}


def load(folder: Path) -> list[Record]:
    """All records of a folder's .jsonl files, by file name. Raises DataError where there are none."""
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), fix="name the folder of a study, sweep or training run")
    found = [record for path in sorted(folder.glob("*.jsonl")) for record in records.read(path)]
    if not found:
        raise DataError(
            "no records", where=str(folder), fix="a run folder has records.jsonl, sweep.jsonl or metrics.jsonl"
        )
    return found


def document(found: Sequence[Record]) -> Document:
    """Raises DataError for records that no page shows."""
    try:
        return _document(found)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        what = f"records that no page can show: {error}"
        raise DataError(what, fix="report shows what vlmerge itself has recorded") from error


def _document(found: Sequence[Record]) -> Document:
    own = [(page, [r for r in found if r.kind in page.kinds]) for page in PAGES]
    shown = [(page, sections) for page, some in own if some and (sections := page.sections(found))]
    if not shown:
        kinds = ", ".join(sorted({record.kind for record in found}))
        raise DataError(f"no page shows records of the kind {kinds}", fix="name the folder of a study, sweep or run")
    first = shown[0][0]
    parts = tuple(section for _, sections in shown for section in sections)
    return Document(first.title, first.subtitle(found), parts)


def check(out: Path) -> None:
    """Raises UsageError where a report would replace what is none: index.html and others of a stranger's."""
    check_no_cache(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", fix="name a folder for the report")
    there = [name for name in PARTS if (out / name).exists()]
    if there and len(there) < len(PARTS):
        raise UsageError(f"{out / there[0]} is no part of a report", fix="name another folder for the report")


def write(found: Sequence[Record], out: Path) -> Written:
    """index.html, report.md, report.tex, tables/*.csv and figures/*.svg and *.png; the same bytes for the same records.

    Without matplotlib there are no figures. Raises DataError for records that no page shows.
    """
    made = document(found)
    drawn = drawing.available()
    panels = {figure.name: drawing.panel_svgs(figure) for figure in made.figures()} if drawn else {}
    legends = {figure.name: drawing.legend(figure) for figure in made.figures()}
    files: dict[str, bytes] = {
        PARTS[0]: html.render(made, panels, legends).encode(),
        PARTS[1]: markdown.render(made, drawn).encode(),
        PARTS[2]: latex.render(made, drawn).encode(),
    }
    files |= {f"tables/{table.name}.csv": csv.table_csv(table).encode() for table in made.tables()}
    if verdicts := list(made.verdicts()):
        files["tables/verdicts.csv"] = csv.verdicts_csv(verdicts).encode()
    for figure in made.figures() if drawn else ():
        files |= {f"figures/{name}": data for name, data in drawing.files(figure).items()}
    for name, data in files.items():
        write_whole(out / name, data)
    return Written(made, out / "index.html", tuple(out / name for name in files), drawn)
