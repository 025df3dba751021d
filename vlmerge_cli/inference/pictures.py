"""Pictures as users have them (paths, PIL images) to the square pixels that a model takes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.data.samples import FileImage, Image
from vlmerge_cli.data.transforms import Augment, load_image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


@dataclass(frozen=True)
class Picture:
    """A picture in memory, as the bytes of a PNG."""

    content: bytes
    name: str

    @staticmethod
    def of(image: str | Path | PillowImage) -> Image:
        """What is read of a path or a PIL image."""
        if isinstance(image, str | Path):
            return FileImage(str(image))
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG", compress_level=0)
        return Picture(file.getvalue(), str(getattr(image, "filename", "") or "a picture"))

    def read(self) -> bytes:
        return self.content

    def __str__(self) -> str:
        return self.name


def prepared(image: Image, size_px: int, view: Augment) -> NDArray[np.uint8]:
    """(3, size, size), as evaluation sees it: nothing is drawn. Raises BadSample."""
    return load_image(image, size_px, view, np.random.default_rng(0), keep=False)[0]
