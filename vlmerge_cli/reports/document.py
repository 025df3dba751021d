"""What a report is made of: headings, words, tables, charts and verdicts, as plain values that know no file format."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided within the spread", "not measured"


@dataclass(frozen=True)
class Number:
    """A number in a table: a mean and, where there are several runs, their standard deviation."""

    mean: float
    spread: float | None = None
    digits: int = 2

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.{self.digits}f}"
        return f"{self.mean:.{self.digits}f}{spread}"


def file_name(text: str) -> str:
    """A name for a file and for an element of a page, whatever a record holds: letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^\w-]", "-", text, flags=re.ASCII)[:100]


Cell: TypeAlias = str | Number | None  # None: there is no record of it


@dataclass(frozen=True)
class Column:
    """``group`` stands above columns side by side; ``paper`` marks numbers that are not ours."""

    title: str
    group: str = ""
    paper: bool = False

    @property
    def full(self) -> str:
        return f"{self.group}, {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Table:
    """The first column names the rows."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", file_name(self.name))
        widths = {len(row) for row in self.rows} | {len(self.columns)}
        assert len(widths) == 1, f"{self.name}: rows of {sorted(widths)} cells"


@dataclass(frozen=True)
class Line:
    """Points of one series: joined unless ``marks_only``; ``spread`` is drawn around them.

    ``color`` counts through the palette; what is ``paper``'s is drawn hollow and dashed.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    color: int = 0
    paper: bool = False
    marks_only: bool = False
    plain: bool = False  # without marks, for many points


@dataclass(frozen=True)
class Level:
    """A horizontal line across a panel."""

    label: str
    y: float
    color: int = 5
    paper: bool = False


@dataclass(frozen=True)
class Heat:
    """A field of cells, rows from the top; darker is more, each panel on its own scale. NaN: no record."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    digits: int = 3


@dataclass(frozen=True)
class Panel:
    """One pair of axes with lines, a heat map, or ``bars`` of (words, value) from the top.

    Ticks are (place, words); without them they are numbers.
    """

    title: str
    x_label: str = ""
    y_label: str = ""
    lines: tuple[Line, ...] = ()
    levels: tuple[Level, ...] = ()
    heat: Heat | None = None
    bars: tuple[tuple[str, float], ...] = ()
    digits: int = 3  # of the numbers beside bars
    color: int = 0  # of bars
    x_ticks: tuple[tuple[float, str], ...] = ()
    marks: tuple[float, ...] = ()  # x of dotted vertical lines


@dataclass(frozen=True)
class Figure:
    """Panels side by side, ``across`` in a row; ``alt`` says in words what there is to see."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    alt: str
    note: str = ""
    across: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", file_name(self.name))


@dataclass(frozen=True)
class Paragraph:
    """Plain words."""

    text: str


@dataclass(frozen=True)
class Items:
    """A bulleted list."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What one score says of a claim: ``outcome``, and in ``numbers`` what it rests on.

    ``gap`` is the mean over runs of what must be above ``least``, ``error`` its standard error, and ``within`` how far
    to both sides of it nothing is decided. What stands ``beside`` is a score of a kind that the paper does not have.
    """

    score: str
    outcome: str
    numbers: str
    gap: float = math.nan
    error: float = math.nan
    within: float = math.nan
    least: float = 0.0
    beside: bool = False

    def __str__(self) -> str:
        return f"{self.score}: {self.outcome}; {self.numbers}"


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper, where it stands there, and what became of it here."""

    name: str
    claim: str
    source: str
    outcome: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdicts:
    """The claims of the paper, each with what became of it; shown as cards or as a list."""

    verdicts: tuple[Verdict, ...]


Block: TypeAlias = Paragraph | Items | Table | Figure | Verdicts


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole report: what every format is made from."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]

    def tables(self) -> Iterator[Table]:
        return (block for section in self.sections for block in section.blocks if isinstance(block, Table))

    def figures(self) -> Iterator[Figure]:
        return (block for section in self.sections for block in section.blocks if isinstance(block, Figure))

    def verdicts(self) -> Iterator[Verdict]:
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Verdicts):
                    yield from block.verdicts
