"""The tally of samples that cannot be used: by reason, the first few named, an error when too many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from vlmerge_cli.errors import DataError

MIN_SEEN = 1000  # a ratio of fewer samples than this says little


class Problem(NamedTuple):
    """One thing that is wrong: why, and which sample or file; ``lost`` samples are gone by it."""

    reason: str
    example: str
    lost: int = 1


class BadSample(Exception):  # noqa: N818 (a signal between a reader and its caller, not an error for the user)
    """Raised by a reader when it meets a sample that cannot be used; whoever asked for it decides."""

    def __init__(self, reason: str, example: str) -> None:
        super().__init__(reason, example)
        self.problem = Problem(reason, example)


@dataclass
class BadSamples:
    """Counts problems and stops when more than ``max_ratio`` of the samples are bad.

    ``max_ratio`` 0 accepts none (fine-tuning), 1 accepts all (``--skip-bad``), and something small is for web
    data. What is known when a data set is opened is added with ``add`` and judged by ``settle``; what turns
    up while reading is judged by ``check``: at step s, with n samples seen, the bad share of the opening
    plus the distinct bad samples met must stay within ``max_ratio`` of min(max(n, 1000), total).
    """

    max_ratio: float = 0.0
    max_examples: int = 3
    fix: str = "mend the data, or go on without them: --skip-bad, or a larger --max-bad-ratio"
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    total: int = 0
    num_seen: int = 0
    _known: int = 0
    _met: set[Problem] = field(default_factory=set)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """``count`` samples are lost for ``reason``; ``example`` names where."""
        self._count(Problem(reason, example, count))
        self._known += count

    def settle(self, num_good: int, where: str = "") -> None:
        """The data set is open and has ``num_good`` usable samples. Raises DataError if too many are bad."""
        self.total = num_good + self._known
        if num_good == 0:
            raise DataError(f"no usable sample{self._listed()}", where=where, fix="look at the path and the split")
        if self._known > self.max_ratio * self.total:
            self._stop(self._known, self.total, where)

    def meet(self, num_seen: int, problems: Iterable[Problem] = (), where: str = "") -> None:
        """``num_seen`` more samples were asked for, and these problems met. Raises DataError if too many."""
        self.num_seen += num_seen
        for problem in problems:
            if problem not in self._met:
                self._met.add(problem)
                self._count(problem)
        if self._met:
            self.check(where)

    def include(self, other: BadSamples) -> None:
        """Take over what was found while opening one of several sources, which was judged by itself."""
        self._known += other._known
        self.total += other.total
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            named = self.examples.setdefault(reason, [])
            named += other.examples[reason][: self.max_examples - len(named)]

    def check(self, where: str = "") -> None:
        """Raises DataError when more than ``max_ratio`` of the samples are bad."""
        judged = max(self.num_seen, MIN_SEEN)
        if self.total:
            judged = min(judged, self.total)
        lost = len(self._met) + (self._known / self.total * judged if self.total else 0)
        if lost > self.max_ratio * judged:
            self._stop(len(self._met) + self._known, max(self.total, self.num_seen), where)

    @property
    def num_bad(self) -> int:
        return sum(self.counts.values())

    def report(self) -> str:
        """``3 missing image (a.jpg, b.jpg, ...)``, one reason after the other, most frequent first."""
        parts = []
        for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            shown = ", ".join(self.examples[reason])
            parts.append(f"{count} × {reason} ({shown}{', ...' if count > len(self.examples[reason]) else ''})")
        return "; ".join(parts)

    def _count(self, problem: Problem) -> None:
        self.counts[problem.reason] = self.counts.get(problem.reason, 0) + problem.lost
        named = self.examples.setdefault(problem.reason, [])
        if len(named) < self.max_examples:
            named.append(problem.example)

    def _listed(self) -> str:
        return f": {self.report()}" if self.counts else ""

    def _stop(self, num_bad: int, num_all: int, where: str) -> None:
        limit = f", more than the {self.max_ratio:g} allowed" if self.max_ratio else ""
        what = f"{num_bad} of {num_all} samples cannot be used{limit}{self._listed()}"
        raise DataError(what, where=where, fix=self.fix)
