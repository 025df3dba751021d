"""Every error a user can meet, and the exit code it ends with.

VlmergeError            1   the user's data or machine
├── UsageError          2   the command line or a settings file
├── CheckpointError     1   a file that is missing, broken or not what it says
├── LayoutError         1   keys that fit no layout, or a layout file that is wrong
├── PlanError           1   experts that cannot be merged as asked; all problems at once
├── MergeError          1   numbers that cannot be merged: NaN, a singular Gram sum
├── DataError           1   a data set that is missing, broken or too bad to use
├── TrainingError       1   a run that cannot go on: a NaN loss, a state that does not fit
└── GateError           3   a limit that the user set was not met
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeVar

E = TypeVar("E", bound="VlmergeError")
NEXT = "\n  "  # between the lines of a message


class VlmergeError(Exception):
    """What happened, where, and what to do: one line, with a second for the place.

    >>> print(VlmergeError("no such method 'lerp'", fix="did you mean 'interpolation'?"))
    no such method 'lerp'
      did you mean 'interpolation'?
    """

    exit_code = 1
    everywhere = False  # raised on all ranks alike, so that one of them may speak

    def __init__(self, what: str, *, where: str = "", fix: str = "", problems: Sequence[str] = ()) -> None:
        what = one_line(what)
        if problems:
            what += f"{' ' if len(problems) == 1 else NEXT}{joined(problems)}"
        super().__init__(what)
        self.what, self.where, self.fix = what, one_line(where), one_line(fix)

    def __str__(self) -> str:
        place = f"in {self.where}" if self.where else ""
        tail = "; ".join(part for part in (place, self.fix) if part)
        return f"{self.what}\n  {tail}" if tail else self.what

    def retold(self, kind: type[E], where: str, fix: str = "") -> E:
        """What this error says, its lines kept, as one of another kind or place."""
        return _rebuild(kind, self.what, one_line(where), one_line(fix))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


class UsageError(VlmergeError):
    """The command line, an argument or a settings file is wrong."""

    exit_code = 2


class CheckpointError(VlmergeError):
    """A file is missing, broken or not what it says."""


class LayoutError(VlmergeError):
    """Keys fit no layout, or a layout file is wrong."""


class PlanError(VlmergeError):
    """Experts that cannot be merged or compared as asked; all problems at once."""


class MergeError(VlmergeError):
    """Numbers that cannot be merged: NaN, or a singular Gram sum."""


class DataError(VlmergeError):
    """A data set is missing, broken or too bad to use."""


class TrainingError(VlmergeError):
    """A run cannot go on: a loss that is not finite, or a state that does not fit."""


class GateError(VlmergeError):
    """A limit that the user set was not met."""

    exit_code = 3


def _rebuild(kind: type[E], what: str, where: str, fix: str) -> E:
    error = kind("")
    error.args, error.what, error.where, error.fix = (what,), what, where, fix
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for a misspelt name, or the list of what there is."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not choices:
        return "there is none"
    shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    return f"choose one of: {shown}"


def one_line(text: str) -> str:
    """Names come from any file, and may hold line ends: they are shown escaped."""
    return text.replace("\n", "\\n")


def joined(problems: Sequence[str], most: int = 20) -> str:
    """Several problems as one indented list, cut at ``most``."""
    lines = [one_line(problem) for problem in problems[:most]]
    if len(problems) > most:
        lines = [*lines, f"... and {len(problems) - most} more"]
    return NEXT.join(lines)
