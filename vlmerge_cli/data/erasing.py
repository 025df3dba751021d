"""Random erasing: a box of an image becomes noise.

With some probability a box of .02 to 1/3 of the image's area, of an aspect of .3 to 3.3, is filled with a draw from
N(0, 1) for every pixel and channel of the normalised image. Source: Zhong et al., 2020 (arXiv 1708.04896).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

AREA, ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
TRIES = 10


def draw(rng: np.random.Generator, size_px: int, ratio: float) -> NDArray[np.int64]:
    """(5,): the box (top, left, bottom, right), empty with probability 1 - ``ratio``, and the seed of its noise."""
    seed = int(rng.integers(1 << 62))
    if rng.random() < ratio:
        for _ in range(TRIES):
            area = size_px**2 * rng.uniform(*AREA)
            aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < size_px and 0 < width < size_px:
                top, left = rng.integers(size_px - height + 1), rng.integers(size_px - width + 1)
                return np.array([top, left, top + height, left + width, seed], np.int64)
    return np.array([0, 0, 0, 0, seed], np.int64)


def apply(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """``images`` (B, 3, H, W) float with the boxes (B, 5) erased, a new tensor; each by its own draw alone."""
    import torch

    result = images.clone()
    for image, (top, left, bottom, right, seed) in zip(result, boxes.tolist(), strict=True):
        if bottom > top:
            noise = torch.randn(len(image), bottom - top, right - left, generator=torch.Generator().manual_seed(seed))
            image[:, top:bottom, left:right] = noise.to(image)
    return result
