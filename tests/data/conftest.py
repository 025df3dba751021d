"""A cache folder of its own for each test run, and one small built-in data set in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShapesOptions, Path]:
    root = tmp_path_factory.mktemp("made")
    options = ShapesOptions(image_px=16, train=48, val=12, test=16, shard_samples=16)
    for part in ("coco", "shards", "nlvr2", "classes", "ade20k"):
        folder(options, part, root)
    return options, next(root.iterdir())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    """``jpeg(seed, width, height)``: a real JPEG of smooth noise."""

    def make(seed: int = 0, width: int = 24, height: int = 20, kind: str = "JPEG") -> bytes:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
        return buffer.getvalue()

    return make
