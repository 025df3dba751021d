"""Two gloo processes give the scores of one exactly, and its losses: also where the last chunk is ragged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.conftest import build
from tests.training.conftest import losses
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import PART_OF, ShapesOptions
from vlmerge_cli.model.config import preset
from vlmerge_cli.tasks import MEASURES, TASKS
from vlmerge_cli.tasks.task import measure
from vlmerge_cli.training.finetune import Run, finetune
from vlmerge_cli.training.finetune_config import load
from vlmerge_cli.training.scoring import Question, score
from vlmerge_cli.training.start import look

pytestmark = pytest.mark.xdist_group("finetune-ranks")  # its fixtures are made once

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted({*TASKS, *MEASURES} - {"flickr30k"})
MICRO = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20}
SCRIPT = """
import json, os, sys
from dataclasses import asdict
from vlmerge_cli import ranks
from vlmerge_cli.training.scoring import Question, score
ranks.start()
found = {}
for name, path, data in json.loads(sys.argv[1]):
    found[name] = asdict(score(path, Question(name, (data,), chunk_size=8)).scores)
everyone = ranks.gather_objects(found)
assert everyone[0] == everyone[1]
if ranks.is_main():
    open(sys.argv[2], "w").write(json.dumps(found))
ranks.stop()
os._exit(0)  # taking PyTorch apart can abort where ranks end at different times
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    options = ShapesOptions(image_px=8, train=40, val=13, test=8)
    root = tmp_path_factory.mktemp("made")
    return lambda name: folder(options, PART_OF[measure(name).kind], root)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, made: Callable[[str], Path]) -> Path:
    """A model with every head, its answers those of the data."""
    path = tmp_path_factory.mktemp("start") / "ckpt"
    heads = ("itc", "itm", "vqa", "nlvr2", "classification", "segmentation")
    sizes = {"num_answers": 5, "num_classes": 48, "num_segments": 8}
    model = build(preset("micro", architecture="specific", heads=heads, **MICRO, **sizes))
    model.save_pretrained(path, about={"tokenizer": "bundled", "answers": ["yes", "no", "1", "2", "red"]})
    return path


def together(arguments: list[str], cwd: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_scores_of_two_processes_are_those_of_one(
    made: Callable[[str], Path], checkpoint: Path, tmp_path: Path
) -> None:
    asked = [(name, str(checkpoint), str(made(name))) for name in NAMES]
    (tmp_path / "script.py").write_text(SCRIPT)
    together([str(tmp_path / "script.py"), json.dumps(asked), str(tmp_path / "found.json")], tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    for name, path, data in asked:
        alone = asdict(score(path, Question(name, (data,), chunk_size=8)).scores)
        assert alone["num_samples"] % 8, "the last chunk is to be ragged"
        assert json.loads(json.dumps(alone)) == found[name], name  # exact


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "parallel", "augment"),
    [("retrieval", "ddp", "none"), ("segmentation", "ddp", "none"), ("nlvr2", "fsdp", "none"),
     ("classification", "ddp", "beit")],
)  # fmt: skip
def test_losses_of_two_processes_are_those_of_one(
    task: str, parallel: str, augment: str, made: Callable[[str], Path], checkpoint: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "task": task, "checkpoint": str(checkpoint), "data": [str(made(task))], "steps": 4, "batch_size": 8,
        "precision": "float64", "parallel": parallel, "drop": 0.1, "saving.log_every": 1, "saving.validate_every": 2,
        "chunk_size": 6, "augment": augment,
    }  # fmt: skip
    config = load(look(checkpoint), None, given, [])
    alone = finetune(Run(config, tmp_path / "alone"))
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    arguments = ["-m", "vlmerge_cli", "finetune", str(checkpoint), "--config", str(tmp_path / "run.yaml")]
    together([*arguments, "--out", str(tmp_path / "together"), "--device", "cpu"], tmp_path)
    for kind in ("train", "validation"):
        one, two = losses(alone, kind), losses(tmp_path / "together", kind)
        assert len(one) == len(two) == (4 if kind == "train" else 2)
        for a, b in zip(one, two, strict=True):
            assert {name: pytest.approx(value, rel=1e-8, abs=1e-8) for name, value in a.items()} == b
    assert torch.get_num_threads() == 1
