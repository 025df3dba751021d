"""Pictures of more than 8 bits: scaled, not cut at 255."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmerge_cli.data.bad import BadSample
from vlmerge_cli.data.images import decoded, opened
from vlmerge_cli.data.samples import FileImage

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def kept(path: Path, values: np.ndarray, mode: str = "RGB") -> np.ndarray:
    Image.fromarray(values).save(path)
    image = FileImage(str(path))
    return np.asarray(decoded(image, opened(image), mode))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", (RAMP * 65535).astype(np.uint16)),
        ("a.tiff", (RAMP * 65535).astype(np.uint16)),
        ("a.tiff", (RAMP * 65535).astype(np.int32)),
        ("a.tiff", (RAMP * 255).astype(np.int32)),
        ("a.tiff", RAMP.astype(np.float32)),
        ("a.tiff", (RAMP * 255).astype(np.float32)),
    ],
)
def test_numbers_of_more_bits_are_scaled(name: str, values: np.ndarray, tmp_path: Path) -> None:
    found = kept(tmp_path / name, values)
    assert found.shape == (8, 8, 3)
    assert np.abs(found - (RAMP * 255)[..., None]).max() <= 1


@pytest.mark.parametrize("values", [RAMP - 0.5, RAMP * 1000, np.full((8, 8), np.nan), (RAMP * 1e6).astype(np.int32)])
def test_an_unknown_range_is_a_bad_sample(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="unknown range"):
        kept(tmp_path / "a.tiff", values if values.dtype == np.int32 else values.astype(np.float32))


def test_labels_of_more_bits_keep_their_numbers(tmp_path: Path) -> None:
    labels = np.arange(64).reshape(8, 8).astype(np.uint16)
    assert np.array_equal(kept(tmp_path / "a.png", labels, "L"), labels)
    with pytest.raises(BadSample, match="0 to 255"):
        kept(tmp_path / "b.png", labels * 5, "L")
