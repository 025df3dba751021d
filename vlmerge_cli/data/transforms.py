"""From an encoded image to a square uint8 array: crop, resize, flip; every choice is drawn beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.data.images import decoded, opened
from vlmerge_cli.data.samples import Image
from vlmerge_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

CROP_TRIES = 10
# Pictures as small as those of the built-in data set are kept decoded: at most 16,384 of 16 kB.
SMALL_PIXELS = 64 * 64
MOST_SMALL = 1 << 14
_small: dict[Image, Any] = {}


@dataclass(frozen=True)
class Augment:
    """How training images are changed. The default is what the published code does for every task.

    A crop takes a share of the area within ``crop_scale`` at an aspect (width / height) within
    ``crop_aspect``, log-uniform; ``flip`` is a probability; ``num_ops`` RandAugment operations of
    ``magnitude`` (of 10) follow, each applied with probability 1/2. ``erase`` is the probability of random erasing,
    ``mixup`` and ``cutmix`` are the α of theirs, for images with one label; 0 leaves them out.
    ``centre`` above 0 takes the square in the middle, with this share of the shorter side, and draws no crop.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    num_ops: int = 2
    magnitude: int = 7
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    centre: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UsageError(f"crop_scale {self.crop_scale} is not within (0, 1]", fix="e.g. (0.5, 1.0)")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise UsageError(f"crop_aspect {self.crop_aspect} is not a range", fix="e.g. (0.75, 1.33)")
        if not (0 <= self.flip <= 1 and self.num_ops >= 0 and 0 <= self.magnitude <= 10):
            raise UsageError("flip is a probability, num_ops 0 or more, magnitude 0 to 10")
        if not (0 <= self.erase <= 1 and 0 <= self.centre <= 1 and self.mixup >= 0 and self.cutmix >= 0):
            raise UsageError("erase and centre are within [0, 1], mixup and cutmix 0 or more")


PUBLISHED = Augment()
# BEiT's fine-tuning on ImageNet-1k, whose RandAugment has more operations and whose magnitudes vary.
BEIT = Augment(crop_scale=(0.08, 1.0), magnitude=9, erase=0.25, mixup=0.8, cutmix=1.0)
NONE = Augment(crop_scale=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0, num_ops=0)
# Small shifts and zooms that keep "left of" true and every thing in sight: for the built-in data set.
LIGHT = Augment(crop_scale=(0.85, 1.0), crop_aspect=(1.0, 1.0), flip=0.0, num_ops=0)
# What evaluation sees: the shorter side at 256 px and of that the middle 224, as ImageNet is scored.
CENTRE = Augment(crop_scale=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0, num_ops=0, centre=224 / 256)


class Crop(NamedTuple):
    """What is cut out, in pixels of the whole image, and whether it is mirrored."""

    left: float
    top: float
    right: float
    bottom: float
    flip: bool = False


def draw_crop(rng: np.random.Generator, width_px: int, height_px: int, augment: Augment) -> Crop:
    """A box of random area and aspect at a random place; after ten boxes that do not fit, the largest that
    does.

    ``NONE`` gives the whole image, whatever its aspect, as evaluation does.
    """
    flip = bool(rng.random() < augment.flip)
    if augment.centre:
        side = augment.centre * min(width_px, height_px)
        left, top = (width_px - side) / 2, (height_px - side) / 2
        return Crop(left, top, left + side, top + side, flip)
    if augment.crop_scale == (1.0, 1.0) and augment.crop_aspect == (1.0, 1.0):
        return Crop(0, 0, width_px, height_px, flip)
    low, high = (math.log(aspect) for aspect in augment.crop_aspect)
    for _ in range(CROP_TRIES):
        area = width_px * height_px * rng.uniform(*augment.crop_scale)
        aspect = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= width_px and 0 < height <= height_px:
            left = int(rng.integers(width_px - width + 1))
            top = int(rng.integers(height_px - height + 1))
            return Crop(left, top, left + width, top + height, flip)
    aspect = min(max(width_px / height_px, augment.crop_aspect[0]), augment.crop_aspect[1])
    width, height = min(width_px, round(height_px * aspect)), min(height_px, round(width_px / aspect))
    left, top = (width_px - width) // 2, (height_px - height) // 2
    return Crop(left, top, left + width, top + height, flip)


def load_image(
    image: Image, size_px: int, augment: Augment, rng: np.random.Generator, keep: bool = True
) -> tuple[NDArray[np.uint8], Crop]:
    """The crop of an image at size x size, bicubic, as (3, size, size), and the crop it is. Raises BadSample.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 where the crop still has the pixels it needs. ``keep`` lets small
    pictures stay decoded for the next epoch.
    """
    from PIL.Image import Resampling, Transpose

    kept = _small.get(image) if keep else None
    picture = kept or opened(image)
    width, height = picture.size
    crop = draw_crop(rng, width, height, augment)
    if kept is None:
        share_x, share_y = (crop.right - crop.left) / width, (crop.bottom - crop.top) / height
        picture.draft("RGB", (math.ceil(size_px / share_x), math.ceil(size_px / share_y)))
        picture = decoded(image, picture)
        if keep and width * height <= SMALL_PIXELS and picture.size == (width, height) and len(_small) < MOST_SMALL:
            _small[image] = picture
    zoom_x, zoom_y = picture.width / width, picture.height / height
    box = (crop.left * zoom_x, crop.top * zoom_y, crop.right * zoom_x, crop.bottom * zoom_y)
    whole = box == (0, 0, size_px, size_px)
    picture = picture if whole else picture.resize((size_px, size_px), Resampling.BICUBIC, box=box)
    if crop.flip:
        picture = picture.transpose(Transpose.FLIP_LEFT_RIGHT)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)), crop


def load_mask(mask: Image, size_px: int, crop: Crop) -> NDArray[np.uint8]:
    """The same crop of a label picture, nearest neighbour, (size, size). Raises BadSample."""
    from PIL.Image import Resampling, Transpose

    picture = decoded(mask, opened(mask), "L").resize((size_px, size_px), Resampling.NEAREST, box=crop[:4])
    if crop.flip:
        picture = picture.transpose(Transpose.FLIP_LEFT_RIGHT)
    return np.array(picture, np.uint8)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]: (x / 255 - 0.5) / 0.5, any shape."""
    values = images.float()
    half = values.new_full((), 127.5)  # by a plain number CUDA would not divide but multiply: an ulp away
    return values.div_(half).sub_(1.0)
