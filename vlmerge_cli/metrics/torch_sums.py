"""The sums of all four distances over one chunk of two vectors that are on a torch device."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmerge_cli.metrics.l2_cosine import SAFE, Pairwise
from vlmerge_cli.metrics.numpy_sums import Counted
from vlmerge_cli.metrics.soft_sign import Sign, dissimilarities
from vlmerge_cli.metrics.threshold import Bracket


class TorchSums:
    """What ``NumpySums`` is on the CPU; the magnitudes inside a bracket come back as a numpy vector.

    The host waits for the sums of a chunk together.
    """

    def sums(self, x: Tensor, y: Tensor) -> tuple[Pairwise, Sign]:
        """As of ``NumpySums``."""
        x64, y64 = x.double(), y.double()
        difference = x64 - y64
        pairs = ((difference, difference), (x64, x64), (y64, y64), (x64, y64))
        sums = [*(torch.dot(a, b) for a, b in pairs), dissimilarities(x64, y64, torch).sum()]
        dd, xx, yy, xy, total = torch.stack(sums).tolist()
        if SAFE[0] <= xx + yy <= SAFE[1]:
            pairwise = Pairwise(dd, xx, yy, xy, exponent=0)
        else:
            pairwise = Pairwise.of(x64, y64, difference, dot=lambda a, b: float(torch.dot(a, b)))
        return pairwise, Sign(total, x.numel())

    def count(self, x: Tensor, bracket: Bracket) -> Counted:
        """As of ``NumpySums``."""
        low, high = bracket.bounds
        magnitudes = x.abs()
        above, beyond = magnitudes > low, magnitudes > high
        num_above, num_beyond = torch.stack([above.sum(), beyond.sum()]).tolist()
        inside = magnitudes[:0] if bracket.is_exact else magnitudes[above ^ beyond]
        return x.numel() - num_above, num_above - num_beyond, inside.cpu().numpy()

    def truncated(self, x: Tensor, y: Tensor, x_limit: float, y_limit: float) -> Sign:
        """As of ``NumpySums``."""
        keep_x, keep_y = x.abs() > x_limit, y.abs() > y_limit
        terms = torch.where(keep_x & keep_y, dissimilarities(x.double(), y.double(), torch), 0.0)
        total, count = torch.stack([terms.sum(), (keep_x | keep_y).sum().double()]).tolist()  # counts are exact
        return Sign(total, int(count))
