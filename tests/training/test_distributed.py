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
from vlmerge_cli.training import state
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
    arguments = ["-m", "vlmerge_cli", "pretrain", str(tmp_path / "run.yaml"), "--out", str(together), "--device", "cpu"]
    done = two_processes(arguments, tmp_path)
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


#: The command line, in which rank 1 alone is sent a signal in its fourth step, and then another.
STOPPED = """
import signal, sys
from vlmerge_cli import ranks
from vlmerge_cli.cli import app
from vlmerge_cli.training import loop
inner, name = loop.Trainer._train, sys.argv.pop()
def signalled(self, batch, step):
    if (ranks.rank(), step) == (1, 3):
        signal.raise_signal(getattr(signal, name))
        signal.raise_signal(signal.SIGTERM)  # as torchrun does after the scheduler
    return inner(self, batch, step)
loop.Trainer._train = signalled
app()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_of_two_processes_saves_the_state_of_both(
    name: str, config: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {"steps": 6, "saving.every": 6, "precision": "float64", "parallel": "fsdp", "saving.validate_batches": 0}
    settings = config(**changes)
    whole = pretrain(Run(settings, tmp_path / "whole"))
    (tmp_path / "run.yaml").write_text(settings.to_yaml())
    (tmp_path / "stopped.py").write_text(STOPPED)
    folder = tmp_path / "run"
    command = ["pretrain", str(tmp_path / "run.yaml"), "--out", str(folder), "--device", "cpu"]
    done = two_processes([str(tmp_path / "stopped.py"), *command, name], tmp_path)
    assert done.returncode != 0
    assert "stopped at step 4; go on with --resume" in done.stderr
    assert [path.name for path in state.saved(folder / "state")] == ["step-00000004"]
    assert not (folder / "model.safetensors").exists()
    pretrain(Run(settings, folder), resume=True)
    assert len(losses(folder)) == 6
    check_weights(whole, folder)


def two_processes(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=cwd)


def check_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(b[key], a[key], rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}")
