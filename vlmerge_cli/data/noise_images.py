"""Pictures that are made of random numbers alone and have what pictures have: a spectrum that falls, edges, flat parts.

Half of them are noise whose amplitude falls as 1 / f^β with β drawn from .5 to 2, each colour mixed from three
such planes; half are dead leaves: discs and rectangles of sizes drawn as 1 / r³ that cover one another (Lee, Mumford
and Huang, 2001; Baradad et al., 2021 (arXiv 2106.05963) for learning from either).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.data.draws import generator

Floats = NDArray[np.float64]
NUM_LEAVES = (4, 60)


@dataclass(frozen=True, slots=True)
class SyntheticImage:
    """Picture ``number`` of the endless series of a seed, ``size_px`` wide and high."""

    seed: int
    number: int
    size_px: int

    def read(self) -> bytes:
        """A PNG."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels()).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def pixels(self) -> NDArray[np.uint8]:
        """(size, size, 3)."""
        rng = generator(self.seed, "picture", self.number)
        drawn = noise(rng, self.size_px) if self.number % 2 else leaves(rng, self.size_px)
        return (255 * drawn.clip(0, 1) + 0.5).astype(np.uint8)

    def __str__(self) -> str:
        return f"synthetic {self.seed}/{self.number}"


def noise(rng: np.random.Generator, size_px: int) -> Floats:
    """(size, size, 3) around a random colour, amplitudes falling as 1 / f^β."""
    rows, columns = np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    falling = frequency ** -rng.uniform(0.5, 2.0)
    falling[0, 0] = 0.0
    waves = rng.standard_normal((3, *frequency.shape, 2)) @ np.array([1, 1j])
    planes = np.fft.irfft2(waves * falling, s=(size_px, size_px))
    planes /= planes.std(axis=(1, 2), keepdims=True) + 1e-12
    mixed = np.einsum("cp,phw->hwc", rng.standard_normal((3, 3)), planes)
    return np.asarray(rng.uniform(0, 1, 3) + rng.uniform(0.05, 0.3) * mixed / (mixed.std() + 1e-12))


def leaves(rng: np.random.Generator, size_px: int) -> Floats:
    """(size, size, 3): discs and rectangles of one colour each on a plain ground, with a little grain."""
    rows, columns = np.mgrid[:size_px, :size_px]
    picture = np.broadcast_to(rng.uniform(0, 1, 3), (size_px, size_px, 3)).copy()
    for _ in range(int(np.exp(rng.uniform(*np.log(NUM_LEAVES))))):
        least, most = 0.04 * size_px, 0.4 * size_px
        radius = 1 / np.sqrt(rng.uniform(1 / most**2, 1 / least**2))
        row, column = rng.uniform(0, size_px, 2)
        if rng.random() < 0.5:
            inside = np.hypot(rows - row, columns - column) < radius
        else:
            angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0)
            along = (rows - row) * np.cos(angle) + (columns - column) * np.sin(angle)
            across = (columns - column) * np.cos(angle) - (rows - row) * np.sin(angle)
            inside = (np.abs(along) < radius) & (np.abs(across) < ratio * radius)
        picture[inside] = rng.uniform(0, 1, 3)
    return np.asarray(picture + rng.uniform(0, 0.06) * rng.standard_normal(picture.shape))
