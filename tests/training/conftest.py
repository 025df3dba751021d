"""One small data set, and runs of the micro model on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlmerge_cli import records
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.training.pretrain import Run, pretrain
from vlmerge_cli.training.pretrain_config import PretrainConfig, load

#: Twenty steps of a specific model after none of the seed, logged each step.
SHORT = {
    "model": "micro",
    "steps": 20,
    "seed_steps": 0,
    "batch_size": 8,
    "saving.every": 10,
    "saving.log_every": 1,
    "saving.validate_every": 10,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and captions in Karpathy's form."""
    options = ShapesOptions(image_px=8, train=40, val=16, test=8)
    return folder(options, "coco", tmp_path_factory.mktemp("made"))


@pytest.fixture
def config(pairs: Path) -> Callable[..., PretrainConfig]:
    def make(**changes: Any) -> PretrainConfig:
        return load(None, {**SHORT, "data": [str(pairs)], **changes}, [])

    return make


@pytest.fixture
def train(config: Callable[..., PretrainConfig], tmp_path: Path) -> Callable[..., Path]:
    """Train in a folder of the test's own; its name and the settings that differ."""

    def run(name: str, resume: bool = False, **changes: Any) -> Path:
        return pretrain(Run(config(**changes), tmp_path / name), resume=resume)

    return run


def losses(folder: Path, kind: str = "train") -> list[dict[str, float]]:
    """Logged values without speeds."""
    return [
        {name: value for name, value in record.values.items() if "per_second" not in name}
        for record in records.read(folder / "metrics.jsonl", kind)
    ]
