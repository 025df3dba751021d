"""TSSD's sums over the pairs near a threshold, for every threshold that is still possible.

Where a bracket holds few codes, as with 16-bit types, a small table of the pairs by their codes is all that one pass
has to keep: once every magnitude has been counted, it gives both thresholds and the sums they leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmerge_cli.metrics.select import Bracket
from vlmerge_cli.metrics.sign import Sign, dissimilarities

Vector = np.ndarray[Any, Any]

#: Codes of a bracket that a table is kept for.
MOST_CODES = 32


@dataclass
class Tally:
    """How many pairs there are at each place, and the sums of their dissimilarities.

    Both are indexed by the places of x and of y: 0 for a magnitude up to the bracket, 1 to n for its codes, n + 1
    for one above. Those of two parts add up.
    """

    counts: Vector
    totals: Vector

    @classmethod
    def empty(cls, brackets: tuple[Bracket, Bracket]) -> Tally:
        shape = tuple(bracket.width + 2 for bracket in brackets)
        return cls(np.zeros(shape, np.int64), np.zeros(shape))

    def add(self, x: Vector, y: Vector, brackets: tuple[Bracket, Bracket]) -> None:
        """Count these pairs too."""
        rows, columns = (bracket.places(values) for bracket, values in zip(brackets, (x, y), strict=True))
        places = rows * self.counts.shape[1] + columns
        with np.errstate(invalid="ignore"):  # infinity over infinity, which the other sums will tell of
            terms = dissimilarities(x.astype(np.float64), y.astype(np.float64))
        self.counts += np.bincount(places, minlength=self.counts.size).reshape(self.counts.shape)
        self.totals += np.bincount(places, terms, self.totals.size).reshape(self.totals.shape)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.counts + other.counts, self.totals + other.totals)

    @property
    def histograms(self) -> tuple[Vector, Vector]:
        """How many magnitudes of x and of y have each code of their bracket."""
        return self.counts.sum(axis=1)[1:-1], self.counts.sum(axis=0)[1:-1]

    def truncated(self, brackets: tuple[Bracket, Bracket], settled: tuple[Bracket, Bracket]) -> Sign:
        """TSSD's sums, now that the brackets that the table was made with are ``settled``, each to one of its codes."""
        x, y = (exact.high - bracket.low + 1 for bracket, exact in zip(brackets, settled, strict=True))  # first kept
        return Sign(float(self.totals[x:, y:].sum()), int(self.counts.sum() - self.counts[:x, :y].sum()))


def fits(brackets: tuple[Bracket, Bracket]) -> bool:
    """Whether a table of these brackets is small."""
    return all(bracket.width <= MOST_CODES for bracket in brackets)
