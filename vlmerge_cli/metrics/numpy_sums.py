"""The sums of all four distances over one chunk of two vectors, in buffers that are reused.

Everything stays in the processor's cache, and nothing of a chunk's size is allocated. Magnitudes are compared in
the vectors' own type; what is added up is float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vlmerge_cli.metrics.l2_cosine import Pairwise
from vlmerge_cli.metrics.soft_sign import Sign
from vlmerge_cli.metrics.threshold import Bracket

Vector = np.ndarray[Any, Any]
#: How many magnitudes lie up to a bracket and inside it, and those inside, where it is not exact.
Counted = tuple[int, int, Vector]


class NumpySums:
    """Takes one chunk after another, of ``size`` pairs at most; used by one thread.

    x and y are vectors of one length and of the ``wide`` type, and are left as they are.
    """

    def __init__(self, size: int, wide: str) -> None:
        self._float64 = np.zeros((3, size), np.float64)
        self._own = np.zeros((4, size), wide)  # the last stays zero
        self._masks = np.zeros((6, size), bool)

    def sums(self, x: Vector, y: Vector) -> tuple[Pairwise, Sign]:
        """The sums of L2 and cosine, and of SSD."""
        terms, others, difference = (buffer[: len(x)] for buffer in self._float64)
        x64, y64 = _as_float64(x, terms), _as_float64(y, others)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(x64, y64, out=difference)
        pairwise = Pairwise.of(x64, y64, difference)
        if x.dtype == np.float64 and not np.isfinite(difference).all():
            x, y = x / 2, y / 2  # the same, and |x|+|y| does not overflow
            difference = x - y
        return pairwise, Sign(self._soft_sign(x, y, difference, terms), len(x))

    def count(self, x: Vector, bracket: Bracket) -> Counted:
        """Where the magnitudes of one side lie."""
        low, high = bracket.bounds
        magnitudes = self._own[0][: len(x)]
        above, inside = (mask[: len(x)] for mask in self._masks[:2])
        np.abs(x, out=magnitudes)
        np.greater(magnitudes, low, out=above)
        np.less_equal(magnitudes, high, out=inside)
        np.logical_and(above, inside, out=inside)
        num_below = len(x) - int(np.count_nonzero(above))
        if bracket.is_exact:
            return num_below, int(np.count_nonzero(inside)), magnitudes[:0]
        members = magnitudes[inside]
        return num_below, len(members), members

    def truncated(self, x: Vector, y: Vector, x_limit: float, y_limit: float) -> Sign:
        """TSSD's sums, as of ``soft_sign.truncated``; only pairs that are both kept and differ in sign are computed."""
        x_upper, x_lower, y_upper, y_lower, differ, others = (mask[: len(x)] for mask in self._masks)
        for vector, limit, upper, lower in ((x, x_limit, x_upper, x_lower), (y, y_limit, y_upper, y_lower)):
            np.greater(vector, limit, out=upper)
            np.less(vector, -limit, out=lower)
        np.logical_and(x_upper, y_lower, out=differ)
        np.logical_and(x_lower, y_upper, out=others)
        total = self._opposite(x, y, np.flatnonzero(np.logical_or(differ, others, out=differ)))
        for mask in (x_lower, y_upper, y_lower):
            np.logical_or(x_upper, mask, out=x_upper)
        return Sign(total, int(np.count_nonzero(x_upper)))

    def _opposite(self, x: Vector, y: Vector, index: Vector) -> float:
        """The sum of ``soft_sign.dissimilarities`` over pairs of opposite sign, without new memory."""
        smaller, larger, ratio = (buffer[: len(index)] for buffer in self._float64)
        for vector, own, magnitudes in ((x, self._own[0], smaller), (y, self._own[1], larger)):
            taken = vector.take(index, out=own[: len(index)], mode="clip")  # other modes buffer what they take
            np.abs(taken, out=magnitudes)
        np.maximum(smaller, larger, out=ratio)
        np.minimum(smaller, larger, out=smaller)
        np.divide(smaller, ratio, out=ratio)
        np.add(ratio, 1, out=larger)
        np.multiply(ratio, 2, out=ratio)
        return float(np.divide(ratio, larger, out=ratio).sum())

    def _soft_sign(self, x: Vector, y: Vector, difference: Vector, terms: Vector) -> float:
        """The sum of the pairs' dissimilarities; ``terms`` is for use."""
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


def _as_float64(vector: Vector, buffer: Vector) -> Vector:
    if vector.dtype == np.float64:
        return vector
    np.copyto(buffer, vector)
    return buffer
