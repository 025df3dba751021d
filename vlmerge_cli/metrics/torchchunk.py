"""The sums of all four distances over one chunk of two vectors that are on a torch device."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmerge_cli.metrics.chunk import Split
from vlmerge_cli.metrics.pairwise import SAFE, Pairwise
from vlmerge_cli.metrics.select import Bracket
from vlmerge_cli.metrics.sign import Sign, dissimilarities


class TorchChunk:
    """What ``Chunk`` is on the CPU; the pairs near a threshold come back as numpy vectors.

    The host waits for a chunk's sums once, all together, and for the pairs near a threshold.
    """

    def __call__(self, x: Tensor, y: Tensor, brackets: tuple[Bracket, Bracket]) -> tuple[Pairwise, Sign, Split]:
        """As of ``Chunk``."""
        x64, y64 = x.double(), y.double()
        difference, terms = x64 - y64, dissimilarities(x64, y64, torch)
        pairs = ((difference, difference), (x64, x64), (y64, y64), (x64, y64))
        split, others = self._split(x, y, terms, brackets, [*(torch.dot(a, b) for a, b in pairs), terms.sum()])
        dd, xx, yy, xy, total = others
        if SAFE[0] <= xx + yy <= SAFE[1]:
            pairwise = Pairwise(dd, xx, yy, xy, exponent=0)
        else:
            pairwise = Pairwise.of(x64, y64, difference, dot=lambda a, b: float(torch.dot(a, b)))
        return pairwise, Sign(total, x.numel()), split

    def truncated(self, x: Tensor, y: Tensor, brackets: tuple[Bracket, Bracket]) -> Split:
        """As of ``Chunk``."""
        return self._split(x, y, dissimilarities(x.double(), y.double(), torch), brackets, [])[0]

    def _split(
        self, x: Tensor, y: Tensor, terms: Tensor, brackets: tuple[Bracket, Bracket], others: list[Tensor]
    ) -> tuple[Split, list[float]]:
        """TSSD's split, and the values of ``others``, which are waited for together with its sums."""
        kept, counts, near = [], [], torch.zeros_like(x, dtype=torch.bool)
        for vector, bracket in zip((x, y), brackets, strict=True):
            low, high = bracket.bounds
            magnitude = vector.abs()
            above, keep = magnitude > low, magnitude > high
            counts += [above.sum(), keep.sum()]
            kept.append(keep)
            if not bracket.is_exact:
                near |= above ^ keep
        clear = [
            torch.where(kept[0] & kept[1] & ~near, terms, 0.0).sum(),
            ((kept[0] | kept[1]) & ~near).sum(),
        ]
        sums = torch.stack([value.double() for value in (*others, *clear, *counts)]).tolist()  # counts are exact
        *values, total, count, x_above, x_kept, y_above, y_kept = sums
        index = near.nonzero().squeeze(1)
        x_near, y_near = torch.stack([x[index], y[index]]).cpu().numpy()
        split = Split(
            Sign(total, int(count)),
            (x.numel() - int(x_above), y.numel() - int(y_above)),
            (int(x_above - x_kept), int(y_above - y_kept)),
            (x_near, y_near),
        )
        return split, values
