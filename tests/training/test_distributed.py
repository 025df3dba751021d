"""Two gloo processes with half the batch each are one process: losses and weights, with DDP and FSDP2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import losses
from vlmerge_cli.training.pretrain import Run, pretrain

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_one(
    parallel: str, train: Callable[..., Path], config: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {
        "steps": 10, "saving.every": 5, "precision": "float64", "parallel": parallel, "objectives.hard_from": 0.0,
        "objectives.hard_full": 0.5, "changes.drop_path": 0.2, "changes.dropout": 0.1,
    }  # fmt: skip
    alone = train("alone", **changes)
    (tmp_path / "run.yaml").write_text(config(**changes).to_yaml())
    together = tmp_path / "together"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "vlmerge_cli",
        "pretrain",
        str(tmp_path / "run.yaml"),
        "--out",
        str(together),
        "--device",
        "cpu",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = losses(alone), losses(together)
    assert len(one) == len(two) == 10
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-8, abs=1e-8), (name, value, b[name])
    check_weights(alone, together)

    # What two processes saved half-way, one takes up.
    (together / "model.safetensors").unlink()
    shutil.rmtree(together / "state" / "step-00000010")
    pretrain(Run(config(**changes), together), resume=True)
    check_weights(alone, together)


def check_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(b[key], a[key], rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}")
