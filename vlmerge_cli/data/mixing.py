"""Mixup and CutMix: an image and its label are blended with its neighbour's, or a box of it is the neighbour's.

For a sample with label a whose neighbour has label b,

    mixup   x = λ x_a + (1 - λ) x_b,                          λ ~ Beta(α, α)
    CutMix  x = x_a outside, x_b inside a box of area 1 - λ,  λ becomes the share that is really outside

and its loss is λ loss(a) + (1 - λ) loss(b). Where both are on, each sample takes one of them with probability 1/2.
What is drawn depends on the sample's own generator alone. Neighbours are samples 0 and 1, 2 and 3, ... of a batch, so
they stay together on any number of processes that have an even number each.
Sources: Zhang et al., 2018 (arXiv 1710.09412); Yun et al., 2019 (arXiv 1905.04899).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.errors import UsageError

if TYPE_CHECKING:
    import torch


def draw(
    rng: np.random.Generator, size_px: int, mixup: float, cutmix: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """λ, (), and the box (top, left, bottom, right), (4,), empty for mixup.

    ``mixup`` and ``cutmix`` are the α of theirs, 0 where it is off.
    """
    cut = rng.random() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cut else mixup
    share = float(rng.beta(alpha, alpha))
    row, column = rng.integers(size_px, size=2)
    if not cut:
        return np.array(share, np.float32), np.zeros(4, np.int64)
    half = int(size_px * math.sqrt(1 - share)) // 2
    box = np.clip([row - half, column - half, row + half, column + half], 0, size_px)
    outside = 1 - (box[2] - box[0]) * (box[3] - box[1]) / size_px**2
    return np.array(outside, np.float32), box.astype(np.int64)


def apply(images: torch.Tensor, shares: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """``images`` (B, 3, H, W) float with their neighbours', by λ (B,) and boxes (B, 4). Raises UsageError for odd B."""
    import torch

    others = images[neighbours(len(images)).to(images.device)]
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    top, left, bottom, right = boxes.T[:, :, None]
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
    is_cut = (bottom > top) | (shares[:, None] == 1)  # (B, 1); a box of no area changes nothing
    own = torch.where(is_cut[..., None], (~inside).to(images), shares.to(images)[:, None, None])[:, None]
    return own * images + (1 - own) * others


def neighbours(num: int) -> torch.Tensor:
    """The place of every sample's neighbour, (num,): 1, 0, 3, 2, ..."""
    import torch

    if num % 2:
        raise UsageError(f"mixup and CutMix pair samples, and a process has {num}", fix="use an even batch_size each")
    return torch.arange(num) ^ 1
