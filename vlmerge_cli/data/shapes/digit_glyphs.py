"""The handwritten digits that scikit-learn carries, as shapes of a scene."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.errors import DataError

SHARE = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}  # of the writers' samples of each digit


def glyph(digit: str, number: int, split: str, u: Any, v: Any) -> NDArray[np.float32]:
    """Ink in [0, 1] at each (u, v) of [-1, 1]², 0 outside. ``number`` picks a sample of the split's share.

    No sample is in two splits; a split's name may go on after its first word.
    """
    drawn = _samples()[int(digit)]
    start, end = (round(share * len(drawn)) for share in SHARE[split.split()[0]])
    ink = drawn[start + number % (end - start)]
    return _bilinear(ink, (np.asarray(v) + 1) * 4.5 - 0.5, (np.asarray(u) + 1) * 4.5 - 0.5)


def _bilinear(ink: NDArray[np.float32], row: Any, column: Any) -> NDArray[np.float32]:
    """``ink`` (10, 10) between its samples; 0 beyond them."""
    inside = (row >= 0) & (row <= 9) & (column >= 0) & (column <= 9)
    row, column = np.clip(row, 0, 8.999), np.clip(column, 0, 8.999)
    top, left = row.astype(int), column.astype(int)
    down, right = row - top, column - left
    upper = ink[top, left] * (1 - right) + ink[top, left + 1] * right
    lower = ink[top + 1, left] * (1 - right) + ink[top + 1, left + 1] * right
    return np.where(inside, upper * (1 - down) + lower * down, 0).astype(np.float32)


@lru_cache(maxsize=1)
def _samples() -> list[NDArray[np.float32]]:
    """For each digit its samples, (num, 10, 10) with an empty rim, ink in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("the digits data set needs scikit-learn", fix="pip install 'vlmerge[train]'") from None
    loaded = load_digits()
    ink = np.pad(loaded.images.astype(np.float32) / 16, ((0, 0), (1, 1), (1, 1)))
    return [ink[loaded.target == digit] for digit in range(10)]
