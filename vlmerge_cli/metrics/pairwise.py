"""L2 distance and cosine dissimilarity of two vectors, from sums over chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pairwise:
    """Σ(x-y)², Σx², Σy² and Σxy in float64; sums of two chunks' accumulators describe both chunks.

    L2 = √Σ(x-y)²; cosine dissimilarity = 1 - Σxy / (√Σx² √Σy²), with 0 for two zero vectors and 1 for one.
    Source: paper section 7.
    """

    dd: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Pairwise:
        """From two float64 vectors of one length."""
        d = x - y

        def dot(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
            return float(np.einsum("i,i->", a, b))  # no BLAS: its threads would change the last bits

        return cls(dot(d, d), dot(x, x), dot(y, y), dot(x, y))

    def __add__(self, other: Pairwise) -> Pairwise:
        return Pairwise(self.dd + other.dd, self.xx + other.xx, self.yy + other.yy, self.xy + other.xy)

    @property
    def l2(self) -> float:
        return math.sqrt(self.dd)

    @property
    def cosine(self) -> float:
        if self.xx == 0 or self.yy == 0:
            return 0.0 if self.xx == self.yy else 1.0
        return max(0.0, 1 - self.xy / (math.sqrt(self.xx) * math.sqrt(self.yy)))
