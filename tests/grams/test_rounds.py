"""The collecting loop: rounds, snapshots, signals, ranks; files that add up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.errors import CheckpointError, UsageError
from vlmerge_cli.grams import expert_inputs, gram_file, rounds
from vlmerge_cli.grams.collector import Collector, find_sites
from vlmerge_cli.layouts.layout import built_in
from vlmerge_cli.methods.linalg import pack
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel

pytestmark = pytest.mark.xdist_group("grams-run")  # its fixtures are made once

LAYOUT = built_in("vl-merging")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> VLModel:
    torch.manual_seed(0)
    return VLModel(preset("micro", architecture="specific")).eval()


@dataclass
class Made:
    """Batches ``first`` to ``last`` of a random stream; ``after`` is called when a batch is done."""

    model: VLModel
    num: int = 6
    first: int = 0
    after: Callable[[int], object] = lambda number: None
    ran: list[int] = field(default_factory=list)

    def run(self, first: int, collector: Collector) -> Iterator[None]:
        for number in range(first, self.num):
            draw = torch.Generator().manual_seed(self.first + number)
            ids = torch.randint(1, 32, (4, 6), generator=draw)
            mask = torch.arange(6)[None] < torch.randint(2, 7, (4, 1), generator=draw)
            image = torch.randn(4, 3, 8, 8, generator=draw)
            expert_inputs.run(self.model, ids, mask, image, expert_inputs.PASSES, collector)
            self.ran.append(number)
            self.after(number)
            yield


def job(model: VLModel, path: Path, **changes: object) -> rounds.Job:
    made = rounds.Job(model, LAYOUT, Target(path), "sha256:made-up", {"data": ["random"]})
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(model: VLModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run writes."""
    path = tmp_path_factory.mktemp("whole") / "a.grams.safetensors"
    rounds.run(job(model, path), Made(model))
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    return path


def matrices(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as file:
        return {key: np.frombuffer(file.read(key)) for key in file.tensors}


def test_several_rounds_give_what_one_gives(model: VLModel, whole: Path, tmp_path: Path) -> None:
    sites = find_sites(model, LAYOUT)
    limit = rounds.memory_bytes(sites[:8], "float32", 1)
    groups = rounds.plan_groups(sites, limit, "float32", 1)
    assert len(groups) > 3
    assert [site for group in groups for site in group] == sites
    assert all(rounds.memory_bytes(group, "float32", 1) <= limit for group in groups)
    batches = Made(model)
    rounds.run(job(model, tmp_path / "b.safetensors", max_memory_bytes=limit), batches)
    assert batches.ran == [*range(6)] * len(groups)
    assert (tmp_path / "b.safetensors").read_bytes() == whole.read_bytes()


def test_memory_that_holds_no_gram(model: VLModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-memory 1 kB is too small: layer 0 .* takes"):
        rounds.run(job(model, tmp_path / "b.safetensors", max_memory_bytes=1000), Made(model))


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_twice_and_resumed(
    model: VLModel, whole: Path, tmp_path: Path, number: int, limited: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a signal the batch is finished and kept; the file is that of a run that was left alone."""
    path = tmp_path / "a.grams.safetensors"
    limit = rounds.memory_bytes(find_sites(model, LAYOUT)[:20], "float32", 1) if limited else None
    this = job(model, path, max_memory_bytes=limit, resume=True)
    num_rounds = len(rounds.plan_groups(find_sites(model, LAYOUT), limit, "float32", 1))
    assert (num_rounds > 1) == limited
    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    ran: list[int] = []
    for stop_at in (3, 4):
        batches = Made(model, after=lambda done, at=stop_at: os.kill(os.getpid(), number) if done == at else None)
        with pytest.raises(KeyboardInterrupt):
            rounds.run(this, batches)
        ran += batches.ran
        assert {which: signal.getsignal(which) for which in before} == before
        assert not path.exists()
        assert f"{stop_at + 1} of 6 batches are kept" in capsys.readouterr().err
    batches = Made(model)
    rounds.run(this, batches)
    assert ran + batches.ran == [*range(6)] * num_rounds
    assert path.read_bytes() == whole.read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.grams.test_rounds import Made, job
from vlmerge_cli.grams import rounds
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel
import torch
torch.manual_seed(0)
model = VLModel(preset("micro", architecture="specific")).eval()
die = int(sys.argv[2])
batches = Made(model, after=lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == die else None)
rounds.run(job(model, Path(sys.argv[1]), resume=True, snapshot_seconds=0.0), batches)
"""


@pytest.mark.slow
def test_killed_outright_and_resumed(whole: Path, tmp_path: Path) -> None:
    """SIGKILL, after which nothing of the process runs any more."""
    path = tmp_path / "a.grams.safetensors"
    codes = [
        subprocess.run([sys.executable, "-c", KILLED, str(path), die], cwd=ROOT, check=False).returncode
        for die in ("2", "4", "-1")
    ]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert path.read_bytes() == whole.read_bytes()


def test_an_interrupted_collection_is_not_lost_by_accident(model: VLModel, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.grams.safetensors"
    batches = Made(model, after=lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == 1 else None)
    with pytest.raises(KeyboardInterrupt):
        rounds.run(job(model, path), batches)
    with pytest.raises(UsageError, match="an interrupted collection is at") as caught:
        rounds.run(job(model, path), Made(model))
    assert "--resume" in caught.value.fix
    with pytest.raises(UsageError, match="another checkpoint: sha256:made-up, not sha256:other"):
        rounds.run(job(model, path, checkpoint_digest="sha256:other", resume=True), Made(model))
    batches = Made(model)
    rounds.run(job(model, path, target=Target(path, force=True)), batches)
    assert batches.ran == [*range(6)]
    assert path.read_bytes() == whole.read_bytes()


RANKS = """
import os, sys
from pathlib import Path
from tests.grams.test_rounds import Made, job
from vlmerge_cli import ranks
from vlmerge_cli.grams import rounds
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel
import torch
ranks.start()
torch.manual_seed(0)
model = VLModel(preset("micro", architecture="specific")).eval()
rounds.run(job(model, Path(sys.argv[1])), Made(model, num=3, first=3 * ranks.rank()))
ranks.stop()
os._exit(0)  # taking PyTorch apart can abort where ranks end at different times
"""


@pytest.mark.slow
def test_two_ranks_give_what_one_process_gives(whole: Path, tmp_path: Path) -> None:
    path, script = tmp_path / "a.grams.safetensors", tmp_path / "script.py"
    script.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    threads = str(torch.get_num_threads())  # as many as here: the model's own float32 rounding depends on it
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    done = subprocess.run([*command, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = matrices(whole), matrices(path)
    assert set(one) == set(two)
    for key in one:
        assert np.abs(one[key] - two[key]).max() <= 1e-12 * np.abs(one[key]).max()
    with open_checkpoint(whole) as first, open_checkpoint(path) as second:
        assert first.about() == second.about()
    assert {found.name for found in tmp_path.iterdir()} == {path.name, script.name}


def test_two_files_add_up(model: VLModel, whole: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for first, path in zip((0, 3), paths, strict=True):
        about = {"data": ["random"], "num_examples": 12}
        rounds.run(job(model, path, about=about), Made(model, num=3, first=first))
    gram_file.add(paths, Target(tmp_path / "c.safetensors"))
    one, both = matrices(whole), matrices(tmp_path / "c.safetensors")
    for key in one:
        assert np.abs(one[key] - both[key]).max() <= 1e-12 * np.abs(one[key]).max()
    with open_checkpoint(whole) as first_file, open_checkpoint(tmp_path / "c.safetensors") as sum_file:
        assert sum_file.about() == {**first_file.about(), "num_examples": 24}


@pytest.mark.parametrize("name", ["checkpoint", "padding"])
def test_files_that_do_not_add_up(model: VLModel, whole: Path, tmp_path: Path, name: str) -> None:
    changed = {"checkpoint_digest": "sha256:other"} if name == "checkpoint" else {"include_padding": True}
    rounds.run(job(model, tmp_path / "b.safetensors", **changed), Made(model, num=1))
    with pytest.raises(CheckpointError, match=f"do not add up: {name} is"):
        gram_file.add([whole, tmp_path / "b.safetensors"], Target(tmp_path / "c.safetensors"))
    assert not (tmp_path / "c.safetensors").exists()


def write(path: Path, full: np.ndarray, **about: object) -> None:
    gram_file.write(Target(path), {"a": len(full)}, lambda key: pack(full), about)


def test_facts_of_a_file(tmp_path: Path) -> None:
    """Condition numbers come from the Cholesky factor, in the 1-norm; a singular matrix has none."""
    full = np.diag([4.0, 2.0, 1.0, 0.5])
    write(tmp_path / "a.safetensors", full, tokens={"a": 7})
    write(tmp_path / "b.safetensors", np.diag([1.0, 0.0, 0.0]))
    with open_checkpoint(tmp_path / "a.safetensors") as file:
        (found,) = gram_file.facts(file)
    assert (found.key, found.width, found.num_tokens, found.num_dead, found.num_bytes) == ("a", 4, 7, 0, 80)
    assert found.condition == pytest.approx(8)
    with open_checkpoint(tmp_path / "b.safetensors") as file:
        (found,) = gram_file.facts(file)
    assert (found.num_tokens, found.num_dead, found.condition) == (None, 2, float("inf"))


def test_json_of_the_metadata_is_sorted(whole: Path) -> None:
    with open_checkpoint(whole) as file:
        text = file.metadata["vlmerge"]
    assert text == json.dumps(json.loads(text), sort_keys=True)
