"""A whole study at the least size: records, interruptions, failures, the command."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT
from vlmerge_cli import records
from vlmerge_cli.records import Record

pytestmark = pytest.mark.xdist_group("study")  # its fixtures are made once

TINY = {
    "model": "micro", "steps": 4, "batch_size": 8, "widths": [16], "k_seed": [0, 0.5], "sharing": ["custom-ln"],
    "alphas": [0.5, 1], "lambdas": [0.5], "gammas": [0.9], "finetune_steps": {"retrieval": 1}, "more_tasks": {},
    "max_samples": 16, "gram_examples": 8, "shapes": {"train": 32, "val": 16, "test": 16},
    "pretrain": {"objectives": {"hard_from": 1.0, "hard_full": 1.0}},
}  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.parent / "study.yaml"
    config.write_text(json.dumps(TINY))  # JSON is YAML
    return [sys.executable, "-m", "vlmerge_cli", "study", str(config), "--preset", "full", "--seeds", "1",
            "--out", str(folder), *more]  # fmt: skip


def run(folder: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(folder, *more), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, made without interruption by one process."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    run(folder, "--workers", "1")
    return folder


def scores(folder: Path, **wanted: object) -> list[Record]:
    found = records.read(folder / "records.jsonl", "score")
    return [r for r in found if all(r.at[name] == value for name, value in wanted.items())]


@pytest.mark.slow
def test_records_say_what_was_done(whole: Path) -> None:
    found = list(records.read(whole / "records.jsonl"))
    assert found[0].kind == "study"
    assert found[0].values["seeds"] == [1]
    assert {record.kind for record in found} == {"study", "score", "distance", "curve"}
    merged = scores(whole, task="retrieval", finetune_steps=0, split="test", k_seed=0.5, arch="specific")
    methods = {(r.at["merge"] or {}).get("method") for r in merged}
    assert methods == {None, "interpolation", "arithmetic", "regmean"}
    after = scores(whole, order="after", split="test")
    assert {(r.at["k_seed"], r.at["finetune_steps"]) for r in after} == {(0.0, 1), (0.5, 1)}
    places = [r.at["where"] for r in found if r.kind == "distance" and r.at["k_seed"] == 0]
    assert places == ["all", "layers.0", "layers.1", "layers.2", "layers.3"]
    costs = list(records.read(whole / "costs.jsonl", "cost"))
    assert len(costs) == len({r.at["node"] for r in costs}) == len(list((whole / "nodes").rglob("records.jsonl")))
    assert str(whole) not in (whole / "records.jsonl").read_text()


@pytest.mark.slow
def test_scores_are_those_of_the_commands(whole: Path) -> None:
    """A point of the grid again, by hand: merge, then evaluate."""
    merged = whole.parent / "merged"
    source = whole / "nodes" / "seed1/width16/kseed50/specific/model"
    for argv in (
        ["merge", str(source), "--alpha", "1", "-o", str(merged), "--force"],
        ["evaluate", str(merged), "--task", "retrieval", "--split", "test", "--max-samples", "16", "--json"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "vlmerge_cli", *argv], cwd=ROOT, capture_output=True, text=True, check=True
        )
    by_hand = json.loads(done.stdout)["scores"]
    (own,) = [
        r
        for r in scores(whole, task="retrieval", finetune_steps=0, split="test", k_seed=0.5, arch="specific")
        if r.at["merge"] and r.at["merge"]["settings"].get("alpha") == 1.0
    ]
    assert {name: own.values[name] for name in by_hand} == by_hand


@pytest.mark.slow
def test_a_study_that_is_stopped_again_and_again_ends_with_the_same_records(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    draw = random.Random(0)
    for number in range(4):
        process = subprocess.Popen(command(folder, "--workers", "2"), cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + draw.uniform(2, 9)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM if number % 2 else signal.SIGKILL)
        process.wait()
        while _is_at_work(folder):  # what a killed study has left running ends with its node
            time.sleep(0.05)
    run(folder, "--workers", "2")
    assert (folder / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()


def _is_at_work(folder: Path) -> bool:
    import fcntl

    if not (folder / ".lock").exists():
        return False
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@pytest.mark.slow
def test_a_failed_node_is_reported_the_rest_goes_on_and_it_is_tried_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    grams = folder / "nodes" / "seed1/width16/kseed50/specific/grams/grams.safetensors"
    grams.mkdir(parents=True)  # a folder where the file should go
    (grams / "in the way").touch()
    done = run(folder, code=1)
    assert "1 nodes failed: seed1/width16/kseed50/specific/grams" in done.stderr
    assert "Traceback" not in done.stderr
    (failure,) = records.read(folder / "records.jsonl", "failure")
    assert failure.at["node"] == "seed1/width16/kseed50/specific/grams"
    assert "grams.safetensors" in failure.values["error"]
    kinds = {(r.at["merge"] or {}).get("method") for r in scores(folder)}
    assert kinds == {None, "interpolation", "arithmetic"}  # all but RegMean, which needs it
    (grams / "in the way").unlink()
    grams.rmdir()
    run(folder)
    assert (folder / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()


@pytest.mark.slow
def test_another_study_is_refused_and_a_finished_one_does_nothing(whole: Path) -> None:
    before = (whole / "records.jsonl").read_bytes()
    done = run(whole, "--set", "steps=6", code=2)
    assert "other settings" in done.stderr
    done = run(whole)
    assert "0 of" in done.stderr
    assert (whole / "records.jsonl").read_bytes() == before
    plan = json.loads(run(whole.parent / "none" / "study", "--dry-run", "--json", "--part", "sharing").stdout)
    assert plan["seconds"] > 0
    assert {node["kind"] for node in plan["nodes"]} == {"seed phase", "pre-training", "merge", "score", "fine-tuning"}
    assert not (whole.parent / "none" / "study").exists()


@pytest.mark.slow
def test_two_processes_train_every_node_together(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    argv = command(folder, "--part", "methods")
    argv[1:3] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vlmerge_cli"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = scores(folder, split="test", task="retrieval")
    wanted = {json.dumps(record.at, sort_keys=True) for record in ours}
    found = scores(whole, split="test", task="retrieval")
    alone = [record for record in found if json.dumps(record.at, sort_keys=True) in wanted]
    assert [record.at for record in ours] == [record.at for record in alone]
    for one, two in zip(ours, alone, strict=True):
        assert one.values["num_samples"] == two.values["num_samples"]
