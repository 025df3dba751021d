"""Results on stdout (text or JSON), progress and log on stderr; only rank 0 speaks.

What is shown may hold names from any file: control characters and marks that turn text round are shown escaped here.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol

from vlmerge_cli import ranks
from vlmerge_cli.errors import VlmergeError, one_line

#: Between two drawings of a bar.
DRAW_SECONDS = 0.1
#: Longer lines of log are cut in the middle: a file can hold a name of any length.
MOST_OF_A_LINE = 2000
#: Control, format (which turn text round or hide it) and half characters, and separators of lines.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_muted: ContextVar[bool] = ContextVar("muted", default=False)


class Progress(Protocol):
    """Called with the amount of work just done; ``note`` shows a line of numbers beside the bar."""

    def __call__(self, amount: int) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def muted() -> Iterator[None]:
    """Nothing is said and no bar is drawn while the block runs: for callers from Python."""
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


def printable(text: str) -> str:
    """The text with what would steer a terminal, or cannot be written to one, as ``\\x1b``; line ends stay."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    import unicodedata  # here and below: what few need is not loaded at every start

    return "".join(_escaped(sign) if unicodedata.category(sign) in UNPRINTABLE else sign for sign in text)


def brief(text: str) -> str:
    """Each line no longer than a screen holds, cut in the middle."""
    half = MOST_OF_A_LINE // 2
    lines = text.split("\n")
    return "\n".join(line if len(line) <= 2 * half else f"{line[:half]} [...] {line[-half:]}" for line in lines)


def open_streams() -> None:
    """Closed standard streams lead nowhere, so that no output file gets their number; none fails at a strange sign."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 (for good)
        getattr(sys, name).reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """All that was shown has gone out. Raises VlmergeError where it could not."""
    _out("", end="")


def complain(text: str) -> None:
    """An error, on any rank, as far as there is someone to tell."""
    with suppress(OSError):
        print(brief(printable(text)), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """One line of log."""
    if ranks.is_main() and not _muted.get():
        complain(one_line(text))


def say_lines(text: str) -> None:
    """Several lines of log."""
    for line in text.split("\n"):
        say(line)


def warn(text: str) -> None:
    say(f"warning: {text}")


def show(text: str) -> None:
    """A result for people, or for a pipe."""
    if ranks.is_main():
        _out(printable(text))


def show_lines(lines: Iterable[str]) -> None:
    """A result of several lines; names in them end no line."""
    show("\n".join(map(one_line, lines)))


def _out(text: str, end: str = "\n") -> None:
    """Raises VlmergeError where standard output takes nothing, BrokenPipeError where its reader has gone."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise no_output(error) from None


def no_output(error: OSError) -> VlmergeError:
    """Standard output takes nothing more: what is left of it is given up, and said."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return VlmergeError(f"cannot write to standard output: {error.strerror}")


def _escaped(sign: str) -> str:
    return sign if sign == "\n" else sign.encode("unicode_escape").decode()


def show_json(document: Any) -> None:
    """A result for programs: one JSON document."""
    import json

    if ranks.is_main():
        _out(json.dumps(document, indent=2, ensure_ascii=False))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; columns of numbers are right-aligned."""
    if not ranks.is_main():
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    rows = [[printable(one_line(cell)) for cell in row] for row in rows]
    for index, name in enumerate(columns):
        numeric = index > 0 and all(row[index][:1] in "-+.0123456789" for row in rows)
        table.add_column(printable(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    wide = None if sys.stdout.isatty() else 200  # a pipe has no width to fit into
    drawn = Console(width=wide, highlight=False, markup=False)
    with drawn.capture() as captured:
        drawn.print(table)
    _out(captured.get(), end="")


class _Silent:
    """No terminal: notes become log lines."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, amount: int) -> None:
        pass

    def note(self, text: str) -> None:
        if not self._quiet:
            say(text)


class _Bar:
    """Drawn when it is told something, without a thread of its own: work under it may fork."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task
        self._drawn_at = 0.0

    def __call__(self, amount: int) -> None:
        self._bar.advance(self._task, amount)
        now = time.monotonic()
        if now - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = now
            self._bar.refresh()

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=printable(text), refresh=True)


@contextmanager
def progress(what: str, total: int, unit: str = "bytes", done: int = 0, quiet: bool = False) -> Iterator[Progress]:
    """A bar with speed and time left on a terminal's stderr; in a pipe only notes, as lines; rank 0 alone.

    ``unit`` is ``bytes`` or the plural name of what is counted; ``done`` is where a resumed run starts.
    """
    if quiet or _muted.get() or not ranks.is_main() or not sys.stderr.isatty():
        yield _Silent(quiet)
        return
    from rich import progress as bars
    from rich.console import Console

    counted: list[bars.ProgressColumn]
    if unit == "bytes":
        counted = [bars.DownloadColumn(), bars.TransferSpeedColumn()]
    else:
        counted = [bars.MofNCompleteColumn(), bars.TextColumn(unit)]
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *counted, bars.TimeRemainingColumn())
    notes = bars.TextColumn("{task.fields[note]}", markup=False)
    console = Console(stderr=True)
    with bars.Progress(*columns, notes, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, total=total, completed=done, note="")
        yield _Bar(bar, task)


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
        if abs(number) < 999.95:
            return f"{number:.0f}{unit}" if unit == "" else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.2f}B"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``: two parts at most."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
