"""L2 distance and cosine dissimilarity of two vectors, from sums over chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Vector = np.ndarray[Any, Any]
Dot = Callable[[Any, Any], float]

#: Vectors are scaled by 2 to the power of this, down or up, where their squares leave the range of float64.
SCALE = 600
#: Sums of squares in this range are used as they are: room above for 2^100 chunks, and below for small differences.
SAFE = (2.0**-700, 2.0**900)
#: Entries that one call of BLAS adds up: below 10,000 it never starts threads, which would change the last bits.
ROW = 8192


def row_dot(a: Vector, b: Vector) -> float:
    """Σab of two float64 vectors, the same to the last bit whatever else runs."""
    whole = len(a) - len(a) % ROW
    total = float(np.vecdot(a[:whole].reshape(-1, ROW), b[:whole].reshape(-1, ROW)).sum())
    return total if whole == len(a) else total + float(np.vecdot(a[whole:], b[whole:]))


@dataclass(frozen=True, slots=True)
class Pairwise:
    """Σ(x-y)², Σx², Σy² and Σxy in float64; sums of two chunks' accumulators describe both chunks.

    L2 = √Σ(x-y)²; cosine dissimilarity = 1 - Σxy / (√Σx² √Σy²), with 0 for two zero vectors and 1 for one.
    The sums are those of 2^-exponent x and y: nothing overflows or vanishes that a float64 distance can tell.
    Source: paper section 7.
    """

    dd: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    exponent: int = -SCALE

    @classmethod
    def of(cls, x: Any, y: Any, difference: Any = None, dot: Dot = row_dot) -> Pairwise:
        """From two float64 vectors of one length, and x - y where the caller has it; torch brings its own ``dot``."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            sums = cls._sums(x, y, x - y if difference is None else difference, 0, dot)
            if SAFE[0] <= sums.xx + sums.yy <= SAFE[1]:
                return sums
            exponent = -SCALE if sums.xx + sums.yy < 1 else SCALE
            x, y = x * 2.0**-exponent, y * 2.0**-exponent
            return cls._sums(x, y, x - y, exponent, dot)

    @classmethod
    def _sums(cls, x: Any, y: Any, d: Any, exponent: int, dot: Dot) -> Pairwise:
        return cls(dot(d, d), dot(x, x), dot(y, y), dot(x, y), exponent)

    def __add__(self, other: Pairwise) -> Pairwise:
        exponent = max(self.exponent, other.exponent)
        a, b = self._scaled(exponent), other._scaled(exponent)
        return Pairwise(a.dd + b.dd, a.xx + b.xx, a.yy + b.yy, a.xy + b.xy, exponent)

    def _scaled(self, exponent: int) -> Pairwise:
        """The same in terms of an exponent that is no lower."""
        if exponent == self.exponent:
            return self
        dd, xx, yy, xy = (math.ldexp(s, 2 * (self.exponent - exponent)) for s in (self.dd, self.xx, self.yy, self.xy))
        return Pairwise(dd, xx, yy, xy, exponent)

    @property
    def is_finite(self) -> bool:
        """False where an entry is NaN or infinite, and only there."""
        return math.isfinite(self.dd + self.xx + self.yy)

    @property
    def l2(self) -> float:
        """‖x - y‖."""
        return math.sqrt(self.dd) * 2.0**self.exponent

    @property
    def cosine(self) -> float:
        """1 - x·y / (‖x‖ ‖y‖); 0 for two zero vectors, 1 for one."""
        if self.xx == 0 or self.yy == 0:
            return 0.0 if self.xx == self.yy else 1.0
        return max(0.0, 1 - self.xy / (math.sqrt(self.xx) * math.sqrt(self.yy)))
