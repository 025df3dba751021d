"""The exact k-th smallest magnitude of a long vector, by its bit patterns, in one or two passes.

Positive floats sort as their bit patterns do. A pass counts the leading bits of every |x| in a histogram; the
bucket that holds the k-th is split by its next bits in the following pass, until it is settled or so small that
its members can be kept. Nothing is sorted, and memory does not grow with the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Codes = np.ndarray[Any, Any]

#: Members of a bucket that the last pass may keep rather than count once more.
FEW = 1 << 20
#: Significant bits of |x| once widened to float32 or float64.
SIGNIFICANT = {"BF16": 15, "F16": 18, "F32": 31, "F64": 63}


def codes_of(x: np.ndarray[Any, Any]) -> Codes:
    """Bit patterns of |x| as unsigned integers (31 bits of a float32, 63 of a float64)."""
    kind = np.dtype(f"u{x.itemsize}")
    found: Codes = np.bitwise_and(x.view(kind), np.array(2 ** (8 * x.itemsize - 1) - 1, kind))
    return found


def value_of(code: int, wide: str) -> float:
    """The magnitude of a bit pattern."""
    size = np.dtype(wide).itemsize
    return float(np.array(code, f"u{size}").view(wide))


@dataclass(frozen=True)
class Bracket:
    """Where the k-th smallest is known to be: codes that share their leading ``settled`` of ``width`` bits.

    ``prefix`` are those bits, ``rank`` the place (from 1) among the ``members`` of the bracket. ``significant``
    is how many leading bits can differ at all; a rank of 0 means k = 0: there is no threshold.
    """

    width: int
    significant: int
    rank: int
    prefix: int = 0
    settled: int = 0
    members: int = 0

    @property
    def is_exact(self) -> bool:
        return self.rank == 0 or self.settled >= self.significant

    @property
    def is_small(self) -> bool:
        """Whether the last pass can keep the members."""
        return self.is_exact or (self.settled > 0 and self.members <= FEW)

    @property
    def threshold_code(self) -> int:
        """The k-th smallest code, once exact; -1 when k = 0."""
        return -1 if self.rank == 0 else self.prefix << (self.width - self.settled)

    @property
    def digit_bits(self) -> int:
        """How many bits the next histogram splits by."""
        left = self.significant - self.settled
        return left if left <= 18 else 16

    def histogram(self, codes: Codes) -> np.ndarray[Any, Any]:
        """Counts of the next digit among the members in ``codes``; counts of chunks add up."""
        shift = self.width - self.settled
        if self.settled:
            codes = codes[(codes >> codes.dtype.type(shift)) == self.prefix]
        digits = codes >> codes.dtype.type(shift - self.digit_bits)
        if self.settled:
            digits &= codes.dtype.type((1 << self.digit_bits) - 1)
        return np.bincount(digits.astype(np.int64, copy=False), minlength=1 << self.digit_bits)

    def narrowed(self, histogram: np.ndarray[Any, Any]) -> Bracket:
        """The bucket of the k-th after a whole pass."""
        if self.rank == 0:
            return self
        upto = np.cumsum(histogram)
        digit = int(np.searchsorted(upto, self.rank))
        before = int(upto[digit] - histogram[digit])
        bits = self.digit_bits
        prefix = (self.prefix << bits) | digit
        return Bracket(
            self.width, self.significant, self.rank - before, prefix, self.settled + bits, int(histogram[digit])
        )

    def bounds(self) -> tuple[int, int]:
        """(lowest, highest) code of the bracket; equal to the threshold when exact."""
        if self.is_exact:
            return self.threshold_code, self.threshold_code
        shift = self.width - self.settled
        return self.prefix << shift, ((self.prefix + 1) << shift) - 1

    def settle(self, members: Codes) -> Bracket:
        """The exact threshold from all members of the bracket."""
        assert len(members) == self.members, (len(members), self.members)
        code = int(np.partition(members, self.rank - 1)[self.rank - 1])
        return Bracket(self.width, self.width, 1, code, self.width, 1)


def start(num_elements: int, ratio: float, dtypes: set[str]) -> Bracket:
    """Before the first pass: k = floor(ratio · n) over vectors of these file dtypes."""
    wide = 64 if "F64" in dtypes else 32
    significant = max(SIGNIFICANT[dtype] for dtype in dtypes) if wide == 32 else 63
    return Bracket(wide - 1, significant, int(ratio * num_elements))
