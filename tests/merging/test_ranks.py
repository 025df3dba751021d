"""Under torchrun: the bytes of one process, the same distances, and nothing left behind by a rank that dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import helpers
from vlmerge_cli.engine.pool import stretch

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def torchrun(num: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(helpers.ROOT), "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, str(num), *(str(argument) for argument in arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7, 40])
def test_stretches_are_a_partition_of_about_equal_cost(num_ranks: int) -> None:
    costs = np.random.default_rng(0).integers(0, 100, 300).tolist()
    parts = [stretch(range(300), costs.__getitem__, rank, num_ranks) for rank in range(num_ranks)]
    assert [piece for part in parts for piece in part] == list(range(300))
    for part in parts:
        assert abs(sum(costs[piece] for piece in part) - sum(costs) / num_ranks) <= 100


def test_stretches_of_nothing() -> None:
    assert list(stretch([], len, 0, 4)) == []
    assert [p for rank in range(3) for p in stretch(["", ""], len, rank, 3)] == ["", ""]


@pytest.mark.slow
@pytest.mark.parametrize("num", [2, 4])
def test_ranks_write_the_bytes_of_one_process(num: int, ckpt: Path, tmp_path: Path) -> None:
    helpers.ok("merge", ckpt, "-o", tmp_path / "one.safetensors")
    done = torchrun(num, "-m", "vlmerge_cli", "merge", ckpt, "-o", tmp_path / "many.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("merged by interpolation") == 1
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "many.safetensors").read_bytes()
    assert not helpers.leftovers(tmp_path)


@pytest.mark.slow
def test_ranks_fill_a_folder_of_shards_together(ckpt: Path, tmp_path: Path) -> None:
    options = ["-m", "regmean", "--max-shard-size", "20KB"]
    helpers.ok("merge", ckpt, "-o", tmp_path / "one", *options)
    done = torchrun(2, "-m", "vlmerge_cli", "merge", ckpt, "-o", tmp_path / "many", *options)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_distances_do_not_depend_on_the_number_of_ranks(ckpt: Path) -> None:
    done = torchrun(2, "-m", "vlmerge_cli", "distance", ckpt, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == helpers.ok("distance", ckpt, "--json").out


@pytest.mark.slow
def test_an_error_on_any_rank_is_said_once(tmp_path: Path) -> None:
    tensors = helpers.tiny()
    last = max(key for key in tensors if ".mlp.v.fc2.weight" in key)
    tensors[last][0, 0] = np.nan
    ckpt = helpers.save(tmp_path / "ckpt.safetensors", tensors)
    done = torchrun(2, "-m", "vlmerge_cli", "merge", ckpt)
    assert done.returncode != 0
    assert done.stderr.count(f"NaN or infinity in {last}") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.safetensors"]


DYING = """
import os, signal, sys
from vlmerge_cli.merging import worker
inner = worker.Worker._merge
def merge(self, step, piece):
    if os.environ["RANK"] == "1" and step.slot.layer:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, step, piece)
worker.Worker._merge = merge
sys.argv = ["vlmerge", *sys.argv[1:]]
from vlmerge_cli.cli import main
main()
"""


@pytest.mark.slow
def test_a_rank_that_dies_leaves_no_output(ckpt: Path, tmp_path: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    before = {path.name for path in tmp_path.iterdir()}
    done = torchrun(2, script, "merge", ckpt)
    assert done.returncode != 0
    assert "another process of this run has ended" in done.stderr or "interrupted" in done.stderr, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == before
    helpers.ok("merge", ckpt)
