"""Killed, interrupted and on a full disk: never a partial file under the final name, and the next run succeeds."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import command, environment, leftovers, ok, read_raw, run, save, tiny

pytestmark = pytest.mark.xdist_group("crash")  # its fixtures are made once

NUM_TRIES = 30
LIMIT_S = 60


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of about 60 MB, so that a kill lands inside the writing of its output."""
    folder = tmp_path_factory.mktemp("large")
    return save(folder / "large.safetensors", tiny(layers=2, top=9, width=560, hidden=2240))


@pytest.fixture(scope="module")
def whole(large: Path) -> dict[str, bytes]:
    """The output's tensors for each alpha, from runs that nobody killed."""
    found = {}
    for alpha in ("0.25", "0.75"):
        out = large.with_name(f"whole{alpha}.safetensors")
        ok("merge", large, "-o", out, "--alpha", alpha, "--no-sync")
        found[alpha] = tensors_of(out)
        out.unlink()
    return found


def tensors_of(path: Path) -> bytes:
    """Every tensor's bytes of a file or of a folder of shards, in the order of their keys."""
    paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    tensors = {key: raw for one in paths for key, raw in read_raw(one).items()}
    return b"".join(tensors[key].data for key in sorted(tensors))


def kill_after_start(process: subprocess.Popen[str], folder: Path, delay_s: float) -> bool:
    """Kill ``delay_s`` after the temporary appeared; whether the process was still running."""
    deadline = time.perf_counter() + LIMIT_S
    moment = deadline
    while process.poll() is None and time.perf_counter() < moment:
        if moment == deadline and any(folder.glob(".*.partial")):
            moment = time.perf_counter() + delay_s
    assert time.perf_counter() < deadline, "it neither wrote nor ended"
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def killed_runs(
    large: Path, whole: dict[str, bytes], folder: Path, name: str, old: bool, times: int, sync: bool
) -> None:
    out = folder / name
    flags = ["--max-shard-size", "9MB", *([] if sync else ["--no-sync"])]
    rng = random.Random(f"{name} {old} {sync}")
    if old:
        ok("merge", large, "-o", out, "--alpha", "0.25", *flags)
    landed = 0
    for _ in range(times):
        before = tensors_of(out) if out.exists() else None
        process = subprocess.Popen(
            command("merge", large, "-o", out, "--alpha", "0.75", "--force", *flags),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        landed += kill_after_start(process, folder, 0.15 * rng.random() ** 4)  # most of them early: it is soon done
        after = tensors_of(out) if out.exists() else None
        assert after in (before, whole["0.75"]), "neither what was there nor the new one, whole"
    assert landed, "no kill came in time: the checkpoint is too small for this machine"
    ok("merge", large, "-o", out, "--alpha", "0.75", "--force", *flags)
    assert tensors_of(out) == whole["0.75"]
    assert leftovers(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.safetensors", "out"])
@pytest.mark.parametrize("old", [False, True], ids=["nothing there", "old output there"])
@pytest.mark.parametrize("sync", [False, True], ids=["no-sync", "sync"])
def test_killed_at_twenty_moments(
    name: str, old: bool, sync: bool, large: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    killed_runs(large, whole, tmp_path, name, old, 20, sync)


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_killed_at_a_few_moments(name: str, large: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    killed_runs(large, whole, tmp_path, name, True, 3, False)


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_interrupted(name: str, large: Path, tmp_path: Path) -> None:
    for number in range(NUM_TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        code, out, err = interrupted("merge", large, "-o", folder / name, folder=folder)
        if code == 0:  # the signal came too late
            continue
        assert code == 130, err
        assert "Traceback" not in err
        assert err.strip().splitlines()[-1] == "interrupted"
        assert not (folder / name).exists()
        assert leftovers(folder) == []
        assert out == ""
        return
    pytest.fail(f"{NUM_TRIES} merges were done before they could be interrupted")


def interrupted(*arguments: Any, folder: Path) -> tuple[int, str, str]:
    """How a command ends that gets Ctrl-C as soon as there is something of its output in ``folder``."""
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.perf_counter() + LIMIT_S
    while not any(folder.glob(".*.partial")) and process.poll() is None and time.perf_counter() < deadline:
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_a_file_may_not_grow_so_large(name: str, large: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    done = run("merge", large, "-o", tmp_path / name, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write")
    assert "--max-shard-size" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []
    ok("merge", large, "-o", tmp_path / name)


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_a_full_disk(name: str, large: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        done = run("merge", large, "-o", disk / name)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "free some space" in done.stderr
        assert len(done.stderr.splitlines()) <= 2
        assert list(disk.iterdir()) == []
        ok("merge", save(tmp_path / "small.safetensors", tiny()), "-o", disk / name)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_checkpoint_is_large_enough(large: Path) -> None:
    assert 50e6 < large.stat().st_size < 100e6
