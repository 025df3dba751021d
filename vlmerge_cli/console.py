"""Results on stdout (text or JSON), progress and log on stderr; only rank 0 speaks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from vlmerge_cli import ranks


class Progress(Protocol):
    """Called with the amount of work just done, and perhaps a note (a speed, say) to show beside it."""

    def __call__(self, amount: int, note: str = "") -> None: ...


def say(text: str) -> None:
    """One line of log."""
    if ranks.is_main():
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    say(f"warning: {text}")


def show(text: str) -> None:
    """A result for people, or for a pipe."""
    if ranks.is_main():
        print(text, flush=True)


def show_json(document: Any) -> None:
    """A result for programs: one JSON document."""
    show(json.dumps(document, indent=2, ensure_ascii=False))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; columns of numbers are right-aligned."""
    if not ranks.is_main():
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    rows = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numeric = index > 0 and all(row[index][:1] in "-+.0123456789" for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    wide = None if sys.stdout.isatty() else 200  # a pipe has no width to fit into
    Console(width=wide, highlight=False, markup=False).print(table)


@contextmanager
def progress(what: str, total: int, unit: str = "bytes", quiet: bool = False) -> Iterator[Progress]:
    """A bar with speed and time left on a terminal's stderr; silent in a pipe, when quiet, on ranks > 0.

    ``unit`` is ``bytes`` or the plural name of what is counted.
    """
    if quiet or not ranks.is_main() or not is_terminal():
        yield _no_progress
        return
    from rich import progress as bars
    from rich.console import Console

    counted: list[bars.ProgressColumn]
    if unit == "bytes":
        counted = [bars.DownloadColumn(), bars.TransferSpeedColumn()]
    else:
        counted = [bars.MofNCompleteColumn(), bars.TextColumn(unit), bars.TextColumn("{task.fields[note]}")]
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *counted, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda amount, note="": bar.update(task, advance=amount, note=note)


def _no_progress(amount: int, note: str = "") -> None:
    pass


def is_terminal() -> bool:
    """Whether someone looks at stderr as it is written."""
    return sys.stderr.isatty()


def size(num_bytes: float) -> str:
    """``865 MB``: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def count(number: float) -> str:
    """``216.1M``: how many, in short."""
    for unit in ("", "K", "M"):
        if abs(number) < 1000:
            return f"{number:.0f}{unit}" if unit == "" else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.2f}B"
