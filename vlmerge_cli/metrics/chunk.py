"""The sums of all four distances over one chunk of two vectors, in buffers that are reused.

Everything stays in the processor's cache, and nothing of a chunk's size is allocated. Magnitudes are compared in
the vectors' own type; what is added up is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmerge_cli.metrics.pairwise import Pairwise, row_dot
from vlmerge_cli.metrics.select import Bracket
from vlmerge_cli.metrics.sign import Sign, dissimilarities

Vector = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Split:
    """TSSD's sums over the pairs that two brackets settle, and the pairs ``near`` a threshold that they leave open.

    ``num_below`` and ``num_inside`` are how many magnitudes of x and of y lie up to their bracket and in it.
    """

    clear: Sign
    num_below: tuple[int, int]
    num_inside: tuple[int, int]
    near: tuple[Vector, Vector]

    def plus(self, total: float) -> Split:
        """With so much more in the sum."""
        return replace(self, clear=self.clear + Sign(total))


class Chunk:
    """Takes one chunk after another, of ``size`` pairs at most; used by one thread."""

    def __init__(self, size: int, wide: str) -> None:
        self._float64 = np.zeros((3, size), np.float64)
        self._own = np.zeros((4, size), wide)  # the last stays zero
        self._masks = np.zeros((5, size), bool)

    def __call__(self, x: Vector, y: Vector, brackets: tuple[Bracket, Bracket]) -> tuple[Pairwise, Sign, Split]:
        """The sums of L2 and cosine, of SSD, and of TSSD as far as the brackets of its thresholds tell.

        x and y are two vectors of one length and of the wide type, and are left as they are.
        """
        terms, others, difference = (buffer[: len(x)] for buffer in self._float64)
        x64, y64 = _as_float64(x, terms), _as_float64(y, others)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(x64, y64, out=difference)
        pairwise = Pairwise.of(x64, y64, difference)
        if x.dtype == np.float64 and not np.isfinite(difference).all():
            total = self._soft_sign(x / 2, y / 2, x / 2 - y / 2, terms)  # the same, and |x|+|y| does not overflow
        else:
            total = self._soft_sign(x, y, difference, terms)
        split, both = self._split(x, y, brackets)
        np.copyto(others, both)
        return pairwise, Sign(total, len(x)), split.plus(2 * row_dot(terms, others))

    def truncated(self, x: Vector, y: Vector, brackets: tuple[Bracket, Bracket]) -> Split:
        """TSSD's sums alone: of the few pairs that are both kept and differ in sign."""
        split, both = self._split(x, y, brackets)
        kind = f"i{x.itemsize}"
        patterns, differ = self._own[0][: len(x)].view(kind), self._masks[4][: len(x)]
        np.less(np.bitwise_xor(x.view(kind), y.view(kind), out=patterns), 0, out=differ)
        index = np.flatnonzero(np.logical_and(both, differ, out=both))
        return split.plus(float(dissimilarities(*(v.take(index).astype(np.float64) for v in (x, y))).sum()))

    def _soft_sign(self, x: Vector, y: Vector, difference: Vector, terms: Vector) -> float:
        """Each pair's dissimilarity into ``terms``; their sum."""
        negative, middle, upper, zero = (buffer[: len(x)] for buffer in self._own)
        # The middle one of x, -y and 0 is the smaller magnitude, with the sign of x, where x and y differ in sign;
        # there x - y is the sum of both magnitudes, with the same sign. Elsewhere it is 0.
        np.negative(y, out=negative)
        np.minimum(x, negative, out=middle)
        np.maximum(x, negative, out=upper)
        np.maximum(middle, zero, out=middle)
        np.minimum(middle, upper, out=middle)
        np.copyto(terms, middle)
        with np.errstate(invalid="ignore"):
            np.divide(terms, difference, out=terms)
        total = float(terms.sum())
        if math.isnan(total):  # 0/0 of equal entries
            terms[np.isnan(terms)] = 0
            total = float(terms.sum())
        return 2 * total

    def _split(self, x: Vector, y: Vector, brackets: tuple[Bracket, Bracket]) -> tuple[Split, Vector]:
        """TSSD's split, its sum still missing, and a mask of the pairs that are known to keep both entries."""
        magnitudes = self._own[0][: len(x)]
        open_x, kept_x, open_y, kept_y, either = (mask[: len(x)] for mask in self._masks)
        below_x, inside_x = _compare(x, brackets[0], magnitudes, open_x, kept_x)
        below_y, inside_y = _compare(y, brackets[1], magnitudes, open_y, kept_y)
        near = np.flatnonzero(np.logical_or(open_x, open_y, out=open_x))
        kept_x[near] = kept_y[near] = False  # those pairs count nowhere yet
        count = int(np.count_nonzero(np.logical_or(kept_x, kept_y, out=either)))
        split = Split(Sign(0.0, count), (below_x, below_y), (inside_x, inside_y), (x.take(near), y.take(near)))
        return split, np.logical_and(kept_x, kept_y, out=kept_x)


def _as_float64(vector: Vector, buffer: Vector) -> Vector:
    if vector.dtype == np.float64:
        return vector
    np.copyto(buffer, vector)
    return buffer


def _compare(vector: Vector, bracket: Bracket, magnitudes: Vector, unsettled: Vector, kept: Vector) -> tuple[int, int]:
    """Marks what the bracket leaves open and what lies above it; how many lie below and inside."""
    low, high = bracket.bounds
    np.abs(vector, out=magnitudes)
    np.greater(magnitudes, low, out=unsettled)
    np.greater(magnitudes, high, out=kept)
    num_above, num_kept = int(np.count_nonzero(unsettled)), int(np.count_nonzero(kept))
    if bracket.is_exact:
        unsettled[:] = False
    else:
        np.not_equal(unsettled, kept, out=unsettled)
    return len(vector) - num_above, num_above - num_kept
