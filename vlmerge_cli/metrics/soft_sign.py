"""Soft sign dissimilarity (SSD), and its truncated form (TSSD) given the two thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Vector = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Sign:
    """Σ of pairwise dissimilarities and the number of pairs; adds up over chunks.

    SSD(x, y) = 1 - 1/L Σ |x+y| / (|x|+|y|). A pair of one sign contributes 1 to the sum and a pair of opposite
    signs ||x|-|y|| / (|x|+|y|), so that the dissimilarity is

        SSD = 1/L Σ over pairs of opposite sign of 2 min(|x|,|y|) / (|x|+|y|),

    which loses no digits where the experts agree. Two zeros count as fully similar. Source: paper section 7.
    """

    total: float = 0.0
    count: int = 0

    def __add__(self, other: Sign) -> Sign:
        return Sign(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """0 when there is no pair."""
        return self.total / self.count if self.count else 0.0


def soft_sign(x: Vector, y: Vector) -> Sign:
    """SSD's sums for two vectors of one floating type."""
    return Sign(float(dissimilarities(x.astype(np.float64), y.astype(np.float64)).sum()), x.size)


def truncated(x: Vector, y: Vector, x_limit: float, y_limit: float) -> Sign:
    """TSSD's sums: entries with |x| <= x_limit (|y| <= y_limit) count as zero, pairs of two zeros not at all.

    A pair with one zero is fully similar, so only pairs where both remain can add to the sum. A limit below
    zero zeroes nothing. Source: paper section 7.
    """
    keep_x, keep_y = np.abs(x) > max(x_limit, 0), np.abs(y) > max(y_limit, 0)
    both = keep_x & keep_y
    return Sign(soft_sign(x[both], y[both]).total, int(np.count_nonzero(keep_x | keep_y)))


def dissimilarities(x: Any, y: Any, xp: Any = np) -> Any:
    """2 min(|x|,|y|) / (|x|+|y|) for pairs of opposite sign, 0 for the others; for all finite float64 values.

    ``xp`` is the library of the vectors, numpy or torch.
    """
    a, b = xp.abs(x), xp.abs(y)
    larger = xp.maximum(a, b)
    ratio = xp.minimum(a, b) / xp.where(larger == 0, 1.0, larger)  # |x|+|y| could overflow
    ratio = xp.where(xp.signbit(x) == xp.signbit(y), 0.0, ratio)
    return 2 * ratio / (1 + ratio)
