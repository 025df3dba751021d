"""The built-in data set in every benchmark's format, small, and a model with every head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.model.conftest import build, micro
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import PART_OF, ShapesOptions
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.data.tokenizer import load
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.task import measure
from vlmerge_cli.weights.vlmodel import VLModel

OPTIONS = ShapesOptions(image_px=8, train=40, val=13, test=8)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """Kind of sample -> its folder."""
    root = tmp_path_factory.mktemp("made")
    return lambda kind: folder(OPTIONS, PART_OF[kind], root)


@pytest.fixture(scope="session")
def model() -> VLModel:
    sizes = {"num_answers": 30, "num_classes": 48, "num_segments": 8, "vocab_size": 96, "max_text_tokens": 20}
    return build(micro("specific", text_bias_tokens=20, **sizes)).double()


@pytest.fixture
def evaluation(made: Callable[[Any], Path], model: VLModel) -> Callable[..., Evaluation]:
    """Of a task on its validation split, in double precision and chunks that do not divide it."""

    def make(task: str, chunk_size: int = 5, **changes: Any) -> Evaluation:
        bad = BadSamples(1.0)
        data = open_data([str(made(measure(task).kind))], measure(task).kind, "val", bad, num_answers=30)
        form = Form(8, load("bundled", 20), num_classes=8)
        return replace(Evaluation(model, data, form, chunk_size, precision="float64", bad=bad), **changes)

    return make
