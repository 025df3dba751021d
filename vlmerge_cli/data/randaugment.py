"""RandAugment on batches: ten operations with the published magnitudes, their parameters drawn per sample.

N operations are drawn with replacement for each sample and each is applied with probability 1/2, at a fixed
magnitude M of 10 (Cubuk et al., 2020, with the ranges of the published code). At M = 7: brightness and
sharpness 1.36, shear 0.21, translation 7 px at any image size, rotation 21 degrees; the last four with a
random sign, what comes in from outside is grey 128. Between operations images are whole numbers in [0, 255],
as they are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FILL = 128.0
LIMIT = 10  # magnitudes are 0 ... 10


def amount(name: str, magnitude: int) -> float:
    """What an operation's ``magnitude`` means in its own unit (a factor, a slope, pixels, degrees)."""
    share = magnitude / LIMIT
    if name in ("brightness", "sharpness"):
        return 0.1 + 1.8 * share
    return {"shear": 0.3, "translate": 10.0, "rotate": 30.0}.get(name.split("_")[0], 0.0) * share


def draw(rng: np.random.Generator, num_ops: int, magnitude: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For one sample: which operations, (num_ops,), -1 for one that is left out; and their signed amounts."""
    codes = rng.integers(len(OPS), size=num_ops)
    applied = rng.random(num_ops) < 0.5
    signs = np.where(rng.random(num_ops) < 0.5, -1.0, 1.0)
    names = list(OPS)
    amounts = np.array([amount(names[code], magnitude) for code in codes], np.float32)
    signed = np.array([names[code].startswith(("shear", "translate", "rotate")) for code in codes], bool)
    return np.where(applied, codes, -1), (amounts * np.where(signed, signs, 1.0)).astype(np.float32)


def apply(images: torch.Tensor, codes: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """``images`` (B, 3, H, W) uint8 after the operations ``codes`` (B, N) with ``amounts`` (B, N); a new
    tensor.

    A sample's result depends on its own row alone.
    """
    result = images.clone()
    for slot in range(codes.shape[1]):
        for code, operation in enumerate(OPS.values()):
            rows = (codes[:, slot] == code).nonzero().squeeze(1)
            if len(rows):
                changed = operation(result[rows].float(), amounts[rows, slot])
                result[rows] = changed.round_().clamp_(0, 255).to(result.dtype)
    return result


# Each operation takes (n, 3, H, W) floats in [0, 255] and an amount for each image.


def _identity(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return x


def _autocontrast(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to 0 ... 255; one of a single value stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = high - low
    stretched = (x - low) * (255 / span.clamp(min=1))
    return stretched.where(span > 0, x)


def _equalize(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel's histogram made as flat as it can be."""
    from kornia.enhance import equalize

    changed: torch.Tensor = equalize(x / 255) * 255
    return changed


def _brightness(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    from kornia.enhance import adjust_brightness_accumulative

    changed: torch.Tensor = adjust_brightness_accumulative(x / 255, amounts) * 255
    return changed


def _sharpness(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Away from the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the rim stays."""
    from kornia.enhance import sharpness

    changed: torch.Tensor = sharpness(x / 255, amounts) * 255
    return changed


def _affine(x: torch.Tensor, *entries: torch.Tensor | float) -> torch.Tensor:
    """Pixel p of the result is the input's at M p, M = ((a, b, c), (d, e, f)); bilinear, grey outside."""
    import torch
    from kornia.geometry.transform import warp_affine

    rows = [torch.as_tensor(entry, dtype=x.dtype, device=x.device).expand(len(x)) for entry in entries]
    matrix = torch.stack(rows, 1).reshape(-1, 2, 3)
    inverse = torch.linalg.inv(matrix[:, :, :2])
    forward = torch.cat((inverse, -inverse @ matrix[:, :, 2:]), 2)
    size = (x.shape[2], x.shape[3])
    fill = torch.full((3,), FILL, device=x.device)
    changed: torch.Tensor = warp_affine(x, forward, size, "bilinear", "fill", True, fill)
    return changed


def _shear_x(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    return _affine(x, 1, amounts, 0, 0, 1, 0)


def _shear_y(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    return _affine(x, 1, 0, 0, amounts, 1, 0)


def _translate_x(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    return _affine(x, 1, 0, amounts, 0, 1, 0)


def _translate_y(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    return _affine(x, 1, 0, 0, 0, 1, amounts)


def _rotate(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """About the middle of the image, by degrees, to the left."""
    angle = amounts * (math.pi / 180)
    sin, cos = angle.sin(), angle.cos()
    row, column = (x.shape[2] - 1) / 2, (x.shape[3] - 1) / 2
    return _affine(x, cos, -sin, column - cos * column + sin * row, sin, cos, row - sin * column - cos * row)


OPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
}
