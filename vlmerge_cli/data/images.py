"""Encoded images: decoding no more than is needed, and telling a whole file from a broken one."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from vlmerge_cli import console
from vlmerge_cli.data.bad import BadSample, BadSamples
from vlmerge_cli.data.samples import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Check = Literal["none", "exists", "whole"]
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TAIL_BYTES = 4096  # some cameras and tools leave a few bytes after the end marker
THREADS = 16  # waiting for the disk, not computing


def opened(image: Image) -> Picture:
    """The image with its header read and its pixels not yet decoded. Raises BadSample."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    data = image.read()
    if not data:
        raise BadSample("empty image file", str(image))
    try:
        return Pillow.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Pillow.DecompressionBombError):
        raise BadSample("unreadable image", str(image)) from None


def decoded(image: Image, picture: Picture, mode: Literal["RGB", "L"] = "RGB") -> Picture:
    """The pixels: RGB, or for label pictures one number each (palette indices stay as they are).

    Numbers of more than 8 bits are scaled: Pillow would cut them at 255. Raises BadSample.
    """
    try:
        if picture.mode[0] in "IF":
            picture = _eight_bits(image, picture, is_label=mode == "L")
        if mode == "L" and picture.mode in ("P", "L"):
            picture.load()
            return picture
        return picture.convert(mode)
    except (OSError, ValueError, SyntaxError):
        raise BadSample("truncated or unreadable image", str(image)) from None


def _eight_bits(image: Image, picture: Picture, is_label: bool) -> Picture:
    """Grey of 16 or 32 bits or floats as 0 to 255; labels keep their numbers. Raises BadSample for other ranges."""
    import numpy as np
    from PIL import Image as Pillow

    values = np.asarray(picture, np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if is_label:
        if not 0 <= low <= high <= 255 or (values % 1).any():
            raise BadSample("label picture with numbers other than 0 to 255", str(image))
        return Pillow.fromarray(values.astype(np.uint8))
    if picture.mode == "F":
        top = 1.0 if high <= 1 else 255.0
    else:
        top = 65535.0 if picture.mode.startswith("I;16") or picture.format == "PNG" or high > 255 else 255.0
    if not 0 <= low <= high <= top:
        raise BadSample("picture with numbers of an unknown range", str(image))
    return Pillow.fromarray((values * (255 / top) + 0.5).astype(np.uint8))


def is_whole(path: str) -> bool:
    """Whether a file's first and last bytes are those of a finished JPEG or PNG (others: not empty).

    Raises OSError where there is no such file.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read(TAIL_BYTES)
    if head[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" in tail
    if head == b"\x89PNG\r\n\x1a\n":
        return b"IEND" in tail[-TAIL_BYTES:]
    return size > 0


def broken(paths: Iterable[str], check: Check, bad: BadSamples, what: str = "image") -> set[str]:
    """The paths that cannot be used, added to ``bad`` with the reason as often as ``paths`` lists them.

    ``exists`` lists each folder once; ``whole`` also looks at the ends of every file, several at a time.
    """
    wanted = Counter(paths)
    if check == "none":
        return set()
    found: set[str] = set()
    there: list[str] = []
    for path in sorted(wanted):
        folder, name = os.path.split(path)
        if name in _names_in(folder):
            there.append(path)
        else:
            bad.add(f"missing {what}", path, wanted[path])
            found.add(path)
    if check == "whole" and there:
        with (
            ThreadPoolExecutor(THREADS) as pool,
            console.progress(f"checking {what}s", len(there), "files") as advance,
        ):
            for path, whole in zip(there, pool.map(is_whole, there, chunksize=256), strict=True):
                if not whole:
                    bad.add(f"truncated or unreadable {what}", path, wanted[path])
                    found.add(path)
                advance(1)
    _names_in.cache_clear()
    return found


@lru_cache(maxsize=4096)
def _names_in(folder: str) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in os.scandir(folder or "."))
    except OSError:
        return frozenset()
