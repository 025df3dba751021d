"""Whole runs of a micro model: they learn, resume bit for bit, and stop where they should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import losses
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.data.transforms import NONE
from vlmerge_cli.errors import TrainingError, UsageError
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.training import loop, state
from vlmerge_cli.training.pretrain import PretrainStep
from vlmerge_cli.training.pretrain_config import PretrainConfig
from vlmerge_cli.weights.vlmodel import VLModel

ROOT = Path(__file__).parent.parent.parent
Train = Callable[..., Path]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_with_a_seed_phase_leaves_what_merging_needs(train: Train) -> None:
    folder = train("run", seed_steps=10)
    with open_checkpoint(folder) as found, open_checkpoint(folder / "seed") as seed:
        survey, _ = find(found.tensors, None, "run")
        assert (survey.architecture, survey.problems()) == ("specific", [])
        base, _ = find(seed.tensors, None, "seed")
        assert base.architecture == "agnostic"
        assert {survey.layout.merged_key(slot) for slot in survey.groups} <= set(seed.tensors)
        assert found.about()["data"] == found.about()["run"]["data"]
    values = losses(folder)
    assert len(values) == 20
    assert [r["lr"] for r in values[:2]] == [r["lr"] for r in values[10:12]]  # a schedule a phase


def test_validation_draws_no_noise(train: Train, config: Callable[..., PretrainConfig]) -> None:
    """The loss that is logged is that of the saved model without dropout and stochastic depth."""
    noisy = {"steps": 4, "changes.dropout": 0.5, "changes.drop_path": 0.5, "saving.validate_every": 4}
    folder, settings = train("run", **noisy), config(**noisy)
    model = VLModel.from_pretrained(folder)
    assert model.config.dropout == 0.5
    form = Form(model.config.image_px, load_tokenizer("bundled", 20), NONE, settings.objectives.mask_ratio)
    data = open_data(settings.data, "pairs", "val", BadSamples())
    checks = list(
        Loader(data, form, settings.batch_size, seed=settings.seed).steps(0, settings.saving.validate_batches)
    )
    step = PretrainStep(model, settings.objectives, settings.seed)
    with torch.no_grad():
        still, moving = (fmean(step.train(on)(batch, 1.0)[0].item() for batch in checks) for on in (False, True))
    assert losses(folder, "validation")[-1]["loss"] == pytest.approx(still, rel=1e-5)
    assert abs(still - moving) > 1e-3


def test_experts_start_from_the_seed(train: Train) -> None:
    folder = train("run", seed_steps=19, **{"optimizer.lr": 1e-9})
    seed, found = weights(folder / "seed"), weights(folder)
    for layer, name in ((0, "attn.{}qkv.weight"), (3, "mlp.{}fc1.weight"), (2, "norm1.{}bias")):
        key = f"transformer.blocks.{layer}.{name}"
        for expert in ("v.", "l.", "vl.") if layer >= 2 else ("v.", "l."):
            torch.testing.assert_close(found[key.format(expert)], seed[key.format("")], rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_stopped_and_resumed_is_the_whole_run(
    precision: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = partial(train, precision=precision)
    overflows_at_first = partial(torch.amp.GradScaler, init_scale=2.0**20)
    monkeypatch.setattr(torch.amp, "GradScaler", overflows_at_first)
    whole = train("whole")
    inner, seen = loop.Trainer._train, []

    def interrupted(self: Any, batch: Any, step: int) -> Any:
        seen.append(step)
        if step == 12 and seen.count(12) == 1:
            signal.raise_signal(signal.SIGINT)
        return inner(self, batch, step)

    monkeypatch.setattr(loop.Trainer, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("stopped")
    assert [path.name for path in state.saved(tmp_path / "stopped" / "state")] == ["step-00000010", "step-00000013"]
    stopped = train("stopped", resume=True)
    assert seen == list(range(20))  # no step is done twice
    assert equal(whole, stopped)
    assert losses(whole) == losses(stopped)
    assert losses(whole, "validation") == losses(stopped, "validation")


def test_resuming_over_the_end_of_the_seed_phase(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("whole", seed_steps=10)
    inner, stops = loop.Trainer._train, [4, 12]

    def interrupted(self: Any, batch: Any, step: int) -> Any:
        if stops and step == stops[0]:
            del stops[0]
            signal.raise_signal(signal.SIGINT)
        return inner(self, batch, step)

    monkeypatch.setattr(loop.Trainer, "_train", interrupted)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train("stopped", resume=resume, seed_steps=10)
    assert equal(whole, train("stopped", resume=True, seed_steps=10))


def test_killed_while_it_saves_it_goes_on_from_the_state_before(
    train: Train, tmp_path: Path, pairs: Path, config: Callable[..., Any]
) -> None:
    whole = train("whole")
    (tmp_path / "run.yaml").write_text(config().to_yaml())
    script = (
        "import os, signal, sys\n"
        "from vlmerge_cli.training import state\n"
        "inner = state.save_state\n"
        "def save(*a, **k):\n"
        "    inner(*a, **k)\n"
        "    if 'step-00000020' in str(k['checkpoint_id']): os.kill(os.getpid(), signal.SIGKILL)\n"
        "state.save_state = save\n"
        "sys.argv = ['vlmerge', 'pretrain', *sys.argv[1:]]\n"
        "from vlmerge_cli.cli import main\n"
        "main()\n"
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", script, str(tmp_path / "run.yaml"), "--out", str(folder), "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in state.saved(folder / "state")] == ["step-00000010"]
    assert not (folder / "model.safetensors").exists()
    assert equal(whole, train("killed", resume=True))
    assert losses(whole) == losses(folder)
    assert not list((folder / "state").glob(".*"))


def test_sigterm_saves_and_ends_with_130(tmp_path: Path, config: Callable[..., Any]) -> None:
    settings = config(steps=5000, **{"saving.every": 5000, "saving.validate_batches": 0})
    (tmp_path / "run.yaml").write_text(settings.to_yaml())
    folder = tmp_path / "run"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vlmerge_cli", "pretrain", str(tmp_path / "run.yaml"), "--out", str(folder)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(losses(folder)) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "go on with --resume" in errors
    (saved,) = state.saved(folder / "state")
    assert state.position_of(saved).step >= 5


def test_a_loss_that_is_not_finite_stops_the_run(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = loop.Trainer._train

    def poisoned(self: Any, batch: Any, step: int) -> Any:
        if step == 12:
            with torch.no_grad():
                self.module.model.transformer.norm.bias.fill_(float("nan"))
        return inner(self, batch, step)

    monkeypatch.setattr(loop.Trainer, "_train", poisoned)
    with pytest.raises(TrainingError) as error:
        train("run")
    words = str(error.value)
    assert "not finite at step 12" in words
    assert "before: loss" in words
    assert "batch: " in words
    assert [path.name for path in state.saved(tmp_path / "run" / "state")] == ["step-00000010"]
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_one_batch_can_be_learnt_by_heart(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, first = loop.Trainer._train, []

    def same(self: Any, batch: Any, step: int) -> Any:
        first.append(batch)
        return inner(self, first[0], step)

    monkeypatch.setattr(loop.Trainer, "_train", same)
    folder = train(
        "run", steps=300, batch_size=6, precision="float32",
        **{"optimizer.lr": 0.01, "saving.every": 300, "saving.validate_batches": 0, "changes.layer_scale": 1.0,
           "changes.drop_path": 0.0, "changes.dropout": 0.0, "changes.positions": "absolute"},
    )  # fmt: skip
    start, end = losses(folder)[0], losses(folder)[-1]
    for name in ("itc", "itm", "mlm"):
        assert end[name] < 0.2 * start[name], (name, start[name], end[name])


def test_accumulated_parts_are_batches_of_their_own(train: Train) -> None:
    folder = train("run", accumulate=2, steps=2, **{"saving.validate_batches": 0})
    whole = train("whole", steps=2, **{"saving.validate_batches": 0})
    one, other = losses(folder)[0], losses(whole)[0]
    assert one["mlm"] == pytest.approx(other["mlm"], rel=0.2)
    assert one["itc"] < other["itc"]  # four columns instead of eight


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_other_precisions_follow_float32(train: Train, precision: str) -> None:
    exact = losses(train("float32"))
    found = losses(train(precision, precision=precision))
    assert found[0]["loss"] == pytest.approx(exact[0]["loss"], rel=2e-2 if precision == "bfloat16" else 1e-5)
    assert found[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=5e-2 if precision == "bfloat16" else 1e-3)


@pytest.mark.parametrize("left_out", [("itc", "itm"), ("mlm", "itm"), ("itm",)])
def test_objectives_can_be_left_out_and_the_run_resumed(
    train: Train, left_out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts that no objective runs get no gradient, and no decay either."""
    changes = {f"objectives.{name}": 0.0 for name in left_out}
    whole = train("whole", **changes)
    inner, stops = loop.Trainer._train, [12]

    def at_twelve(self: Any, batch: Any, step: int) -> Any:
        if step in stops:
            stops.clear()
            signal.raise_signal(signal.SIGINT)
        return inner(self, batch, step)

    monkeypatch.setattr(loop.Trainer, "_train", at_twelve)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", **changes)
    assert equal(whole, train("stopped", resume=True, **changes))


def test_all_architectures_train(train: Train) -> None:
    for arch in ("custom-attn", "custom-ffn", "custom-ln", "agnostic"):
        folder = train(arch, arch=arch, steps=2, recompute=True)
        with open_checkpoint(folder) as found:
            assert find(found.tensors, None, arch)[0].architecture == arch


def test_a_folder_with_another_run_is_left_alone(train: Train) -> None:
    train("run", steps=2)
    with pytest.raises(UsageError, match="is not empty"):
        train("run", steps=2)
    with pytest.raises(UsageError, match="other settings"):
        train("run", steps=3, resume=True)


def test_only_the_newest_states_are_kept(train: Train) -> None:
    folder = train("run", **{"saving.every": 4, "saving.keep": 2})
    assert [path.name for path in state.saved(folder / "state")] == ["step-00000016", "step-00000020"]
    assert json.loads((folder / "best" / "config.json").read_text())["model_type"] == "vlmerge"


def test_no_step_after_the_seed_phase_gives_equal_experts(train: Train) -> None:
    """λ = 0 of the paper: a specific model, each expert of which is the seed's weights."""
    folder = train("run", steps=2, seed_steps=2)
    seed, model = VLModel.from_pretrained(folder / "seed"), VLModel.from_pretrained(folder)
    assert (seed.config.architecture, model.config.architecture) == ("agnostic", "specific")
    own = seed.state_dict()
    for key, value in model.state_dict().items():
        for expert in ("v", "l", "vl"):
            key = key.replace(f".{expert}.", ".")
        assert torch.equal(value, own[key]), key
    assert train("agnostic", steps=2, seed_steps=2, arch="agnostic").joinpath("model.safetensors").exists()
