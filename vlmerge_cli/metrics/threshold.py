"""The exact k-th smallest magnitude of a long vector, by its bit patterns: guessed from a sample, settled by counting.

Positive floats sort as their bit patterns do. A sample says between which two patterns the k-th smallest must lie;
a pass over the vector counts what lies below and inside, so that a wrong guess is noticed, and what lies inside by
small parts, one of which is left. Nothing is sorted as a whole, and memory does not grow with the vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Codes = np.ndarray[Any, Any]

#: Entries of each vector that a guess is made from.
SAMPLE = 1 << 19
#: A pass counts by 2 to the power of so many parts of a bracket: as wide as one that is guessed mostly is.
PART_BITS = 18
#: Width of a guess in standard deviations of the sample's rank: a miss costs one or two passes, once in 10^4 times.
DEVIATIONS = 4
#: Significant bits of |x| once widened to float32 or float64.
SIGNIFICANT = {"BF16": 15, "F16": 18, "F32": 31, "F64": 63}


@dataclass(frozen=True)
class Coding:
    """Magnitudes of a ``wide`` type as integers: their bit patterns without the ``unused`` last bits."""

    wide: str
    unused: int

    @classmethod
    def of(cls, dtypes: set[str]) -> Coding:
        """For vectors of these file dtypes, widened to float32, or to float64 where one is involved."""
        if "F64" in dtypes:
            return cls("float64", 0)
        return cls("float32", 31 - max((SIGNIFICANT[dtype] for dtype in dtypes), default=31))

    @property
    def top(self) -> int:
        """Infinity's."""
        return int(self.codes(np.array([np.inf], self.wide))[0])

    def codes(self, x: np.ndarray[Any, Any]) -> Codes:
        """Of |x|, unsigned: they sort as the magnitudes do."""
        kind = np.dtype(f"u{x.itemsize}")
        patterns = np.bitwise_and(x.view(kind), kind.type(2 ** (8 * x.itemsize - 1) - 1))
        found: Codes = np.right_shift(patterns, kind.type(self.unused))
        return found.astype(np.uint16) if 8 * x.itemsize - 1 - self.unused <= 16 else found

    def value(self, code: int) -> float:
        """The magnitude of a code; below all magnitudes for -1."""
        if code < 0:
            return -1.0
        size = np.dtype(self.wide).itemsize
        return float(np.array(code << self.unused, f"u{size}").view(self.wide))


@dataclass(frozen=True)
class Bracket:
    """The k-th smallest code is thought to be above ``low`` and at most ``high``; -1 lies below all codes."""

    k: int
    coding: Coding
    low: int
    high: int

    @property
    def width(self) -> int:
        """How many codes it leaves."""
        return self.high - self.low

    @property
    def is_exact(self) -> bool:
        """Whether it leaves one code."""
        return self.width == 1

    @property
    def threshold(self) -> float:
        """The k-th smallest magnitude, once exact; 0 when k = 0."""
        return self.coding.value(self.high)

    @property
    def bounds(self) -> tuple[float, float]:
        """The magnitudes of ``low`` and ``high``: none above the second can be the threshold, none up to the first."""
        return self.coding.value(self.low), self.coding.value(self.high)

    @property
    def _part_shift(self) -> int:
        return max(0, (self.width - 1).bit_length() - PART_BITS)

    def parts_of(self, members: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Which of its 2^PART_BITS parts of equal width magnitudes of the bracket lie in."""
        codes = self.coding.codes(members)
        offsets = codes - codes.dtype.type(self.low + 1)
        found: np.ndarray[Any, np.dtype[np.intp]] = (offsets >> offsets.dtype.type(self._part_shift)).astype(np.intp)
        return found

    def narrowed(self, counts: Counts) -> Bracket:
        """What a whole pass leaves of the bracket: one part, or all on one side where it missed."""
        if self.k == 0:
            return self
        if not counts.num_below < self.k <= counts.num_below + counts.num_inside:
            low, high = (-1, self.low) if self.k <= counts.num_below else (self.high, self.coding.top)
            return replace(self, low=low, high=high)
        if self.is_exact:
            return self
        part = int(np.searchsorted(np.cumsum(counts.parts), self.k - counts.num_below))
        low = self.low + (part << self._part_shift)
        return replace(self, low=low, high=min(self.high, low + (1 << self._part_shift)))


@dataclass
class Counts:
    """How many magnitudes lie up to a bracket and inside it, and how many in each part of it; adds up over workers."""

    num_below: int = 0
    num_inside: int = 0
    parts: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(1 << PART_BITS, np.int64))

    def add(self, bracket: Bracket, num_below: int, num_inside: int, members: np.ndarray[Any, Any]) -> None:
        """Count so many more; ``members`` are the magnitudes inside, of which an exact bracket needs none."""
        self.num_below += num_below
        self.num_inside += num_inside
        np.add.at(self.parts, bracket.parts_of(members), 1)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.num_below + other.num_below, self.num_inside + other.num_inside, self.parts + other.parts)


def anywhere(k: int, coding: Coding) -> Bracket:
    """A bracket that holds every finite magnitude; for k = 0 only 0, which counts as zeroed anyway."""
    return Bracket(k, coding, -1, coding.top if k else 0)


def guess(k: int, num_elements: int, coding: Coding, sample: Sequence[tuple[Codes, Codes]]) -> Bracket:
    """A bracket around the k-th smallest of ``num_elements``, from codes that were sampled all over the vector.

    The sample comes in pairs, both taken from one stretch of the vector: how much they differ in the share of codes
    below the threshold tells how far the sample's rank can be off, however the magnitudes are spread.
    """
    whole = anywhere(k, coding)
    halves = [half for pair in sample for half in pair]
    if k == 0 or not sum(map(len, halves)):
        return whole
    codes = np.concatenate(halves)

    def ranked(place: int) -> int:
        codes.partition(place)  # in place: one more copy of the sample would be the most memory that is ever needed
        return int(codes[place])

    rank = k * len(codes) / num_elements
    centre = ranked(min(int(rank), len(codes) - 1))
    differences = [int(np.count_nonzero(a <= centre)) - int(np.count_nonzero(b <= centre)) for a, b in sample]
    margin = DEVIATIONS * math.sqrt(sum(difference**2 for difference in differences)) + 2
    first, last = math.floor(rank - margin), math.ceil(rank + margin)
    low = ranked(first) - 1 if first >= 0 else whole.low
    high = ranked(last) if last < len(codes) else whole.high
    return replace(whole, low=min(low, whole.high - 1), high=min(high, whole.high))
