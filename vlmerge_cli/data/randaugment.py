"""RandAugment on batches: ten operations with the published magnitudes, their parameters drawn per sample.

N operations are drawn with replacement for each sample and each is applied with probability 1/2, at a fixed
magnitude M of 10 (Cubuk et al., 2020, with the ranges of the published code). At M = 7: brightness and sharpness
1.36, shear 0.21, translation 7 px at any image size, rotation 21 degrees; the last four with a random sign, what
comes in from outside is grey 128. Between operations images are whole numbers in [0, 255], as they are there.
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
    """``images`` (B, 3, H, W) uint8 after the operations ``codes`` (B, N) with ``amounts`` (B, N); a new tensor.

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


def _identity(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    return x


def _autocontrast(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to 0 ... 255; one of a single value stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = high - low
    stretched = (x - low) * (255 / span.clamp(min=1))
    return stretched.where(span > 0, x)


def _equalize(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Each channel's histogram made as flat as it can be."""
    from kornia.enhance import equalize

    return equalize(x / 255) * 255


def _brightness(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    from kornia.enhance import adjust_brightness_accumulative

    return adjust_brightness_accumulative(x / 255, amounts) * 255


def _sharpness(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Away from the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the rim stays."""
    from kornia.enhance import sharpness

    return sharpness(x / 255, amounts) * 255


def _affine(x: torch.Tensor, m00: torch.Tensor, m01: torch.Tensor, m10: torch.Tensor, m11: torch.Tensor,
            shift_x: torch.Tensor, shift_y: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Pixel (x, y) of the result is that at M (x, y) + shift of the input, bilinear, grey from outside."""
    import torch
    from kornia.geometry.transform import warp_affine

    forward = torch.stack((torch.stack((m00, m01, shift_x), 1), torch.stack((m10, m11, shift_y), 1)), 1)
    inverse = torch.linalg.inv(forward[:, :, :2])
    matrix = torch.cat((inverse, -inverse @ forward[:, :, 2:]), 2)
    height, width = x.shape[2:]
    fill = torch.full((3,), FILL, device=x.device)
    return warp_affine(x, matrix, (height, width), "bilinear", "fill", align_corners=True, fill_value=fill)


def _shear_x(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    one, zero = amounts.new_ones(len(x)), amounts.new_zeros(len(x))
    return _affine(x, one, amounts, zero, one, zero, zero)


def _shear_y(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    one, zero = amounts.new_ones(len(x)), amounts.new_zeros(len(x))
    return _affine(x, one, zero, amounts, one, zero, zero)


def _translate_x(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    one, zero = amounts.new_ones(len(x)), amounts.new_zeros(len(x))
    return _affine(x, one, zero, zero, one, amounts, zero)


def _translate_y(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    one, zero = amounts.new_ones(len(x)), amounts.new_zeros(len(x))
    return _affine(x, one, zero, zero, one, zero, amounts)


def _rotate(x: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """About the middle of the image, by degrees."""
    angle = amounts * (math.pi / 180)
    sin, cos = angle.sin(), angle.cos()
    middle_y, middle_x = (x.shape[2] - 1) / 2, (x.shape[3] - 1) / 2
    shift_x = middle_x - cos * middle_x - sin * middle_y
    shift_y = middle_y + sin * middle_x - cos * middle_y
    return _affine(x, cos, sin, -sin, cos, shift_x, shift_y)


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
