"""Random numbers for samples, keyed by seed, purpose and row: the same on every device and number of ranks.

A row is a sample's place in the whole run (Batch.row). Each number is a hash of its row and its place within
the row, computed on the device: two rounds of the SplitMix64 finaliser (Steele et al., 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmerge_cli.data.draws import number

_STEP = 0x9E3779B97F4A7C15 - 2**64  # the golden ratio as a signed 64-bit number
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


@dataclass(frozen=True)
class Noise:
    """Draws for the samples of one batch; ``rows`` (B,) int64."""

    seed: int
    rows: Tensor

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        keys = _mixed((self.rows + number(self.seed, purpose)) * _STEP)  # (B,)
        places = torch.arange(1, math.prod(shape) + 1, device=self.rows.device)
        bits = _mixed(keys[:, None] + places * _STEP) >> 40 & (1 << 24) - 1
        return (bits.to(torch.float32) * 2**-24).view(len(self.rows), *shape)

    def dropout(self, purpose: str, ratio: float, *shape: int) -> Tensor | None:
        """(B, *shape): 0 with probability ``ratio``, else 1 / (1 - ratio); None where nothing is dropped."""
        if ratio == 0:
            return None
        return self.uniform(purpose, *shape).ge(ratio).float() / (1 - ratio)

    def depth(self, purpose: str, ratio: float, num_layers: int) -> Tensor | None:
        """Stochastic depth (layers, 2, B), its ratio growing from 0 at the first layer to ``ratio``."""
        if ratio == 0:
            return None
        ratios = torch.linspace(0, ratio, num_layers, device=self.rows.device)[:, None]  # (layers, 1)
        kept = self.uniform(purpose, num_layers, 2).ge(ratios).float() / (1 - ratios)  # (B, layers, 2)
        return kept.permute(1, 2, 0)


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in _ROUNDS:
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Logical right shift of signed 64-bit numbers."""
    return x >> by & (1 << 64 - by) - 1
