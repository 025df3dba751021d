"""The sums of all four distances over one chunk of two vectors that are on a torch device."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmerge_cli.metrics.chunk import Split
from vlmerge_cli.metrics.pairwise import Pairwise
from vlmerge_cli.metrics.select import Bracket
from vlmerge_cli.metrics.sign import Sign, dissimilarities


class TorchChunk:
    """What ``Chunk`` is on the CPU; the pairs near a threshold come back as numpy vectors."""

    def __call__(self, x: Tensor, y: Tensor, brackets: tuple[Bracket, Bracket]) -> tuple[Pairwise, Sign, Split]:
        """As of ``Chunk``."""
        x64, y64 = x.double(), y.double()
        pairwise = Pairwise.of(x64, y64, dot=lambda a, b: float(torch.dot(a, b)))
        terms = dissimilarities(x64, y64, torch)
        return pairwise, Sign(float(terms.sum()), x.numel()), self._split(x, y, terms, brackets)

    def truncated(self, x: Tensor, y: Tensor, brackets: tuple[Bracket, Bracket]) -> Split:
        """As of ``Chunk``."""
        return self._split(x, y, dissimilarities(x.double(), y.double(), torch), brackets)

    def _split(self, x: Tensor, y: Tensor, terms: Tensor, brackets: tuple[Bracket, Bracket]) -> Split:
        kept, near = [], torch.zeros_like(x, dtype=torch.bool)
        num_below, num_inside = [], []
        for vector, bracket in zip((x, y), brackets, strict=True):
            low, high = bracket.bounds
            above, keep = vector.abs() > low, vector.abs() > high
            num_above, num_kept = int(above.sum()), int(keep.sum())
            num_below.append(x.numel() - num_above)
            num_inside.append(num_above - num_kept)
            kept.append(keep)
            if not bracket.is_exact:
                near |= above ^ keep
        clear = Sign(
            float(torch.where(kept[0] & kept[1] & ~near, terms, 0.0).sum()),
            int(((kept[0] | kept[1]) & ~near).sum()),
        )
        x_near, y_near = (vector[near].cpu().numpy() for vector in (x, y))
        return Split(clear, (num_below[0], num_below[1]), (num_inside[0], num_inside[1]), (x_near, y_near))
