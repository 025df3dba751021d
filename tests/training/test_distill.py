"""Distilling: every kind of input, what is trained, stopping and going on, and what the result says of itself."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import fails, ok, vlmerge
from tests.model.conftest import build
from tests.training.conftest import losses
from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import preset
from vlmerge_cli.training import loop
from vlmerge_cli.training.distill_config import load
from vlmerge_cli.training.start import look

SHORT = ["--steps", "8", "--batch-size", "8", "--examples", "40", "--set", "saving.log_every=1", "--device", "cpu",
         "--set", "saving.validate_every=4"]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "ckpt"
    torch.manual_seed(0)
    config = preset("micro", architecture="specific", heads=("itc", "itm", "mlm"), max_text_tokens=20,
                    text_bias_tokens=20, vocab_size=91)  # fmt: skip
    build(config).save_pretrained(path, about={"tokenizer": "bundled", "data": ["shapes"]})
    return path


@pytest.fixture
def run(teacher: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(*options: object, name: str = "run") -> Path:
        ok("distill", teacher, *SHORT, "--out", tmp_path / name, *options)
        return tmp_path / name

    return make


def inputs_of(kind: str, pairs: Path, tmp_path: Path) -> list[object]:
    (tmp_path / "texts.txt").write_text("a red disc\ntwo blue stars\n")
    folder = next(path for path in pairs.iterdir() if path.is_dir())
    return {
        "pairs": ["--data", pairs],
        "images": ["--images", folder],
        "unpaired": ["--images", folder, "--texts", tmp_path / "texts.txt"],
        "random": ["--images", folder, "--set", "words=random"],
        "shuffled": ["--data", pairs, "--set", "words=model"],
        "nothing": ["--no-data"],
    }[kind]


@pytest.mark.parametrize("kind", ["pairs", "images", "unpaired", "random", "shuffled", "nothing"])
def test_every_kind_of_input_brings_the_merge_closer(
    kind: str, run: Callable[..., Path], teacher: Path, pairs: Path, tmp_path: Path
) -> None:
    folder = run(*inputs_of(kind, pairs, tmp_path))
    found = losses(folder, "validation")
    assert found[-1]["loss"] < 0.97 * losses(folder)[0]["loss"]
    about, config = look(folder / "best").about, look(folder / "best").config
    assert config.architecture == "agnostic"
    assert about["tokenizer"] == "bundled"
    assert about["recipe"]["method"] == "distill"
    assert about["recipe"]["start"]["method"] == "interpolation"
    before, after = load_file(folder / "start" / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(".blocks." in key for key in changed)


def test_norms_alone(run: Callable[..., Path], pairs: Path) -> None:
    folder = run("--data", pairs, "--trains", "norms")
    before, after = load_file(folder / "start" / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(before[key].ndim == 1 for key in changed)


def test_starts(run: Callable[..., Path], teacher: Path, pairs: Path, tmp_path: Path) -> None:
    ok("merge", teacher, "--alpha", "0.75", "-o", tmp_path / "merged")
    at_merge = losses(run("--data", pairs, "--start", tmp_path / "merged", name="merged-start"))[0]["loss"]
    at_average = losses(run("--data", pairs, name="average"))[0]["loss"]
    at_random = losses(run("--data", pairs, "--start", "random", name="random"))[0]["loss"]
    assert len({at_merge, at_average, at_random}) == 3
    kept = "text_embeddings.word_embeddings.weight"
    weights = load_file(tmp_path / "random" / "model.safetensors")
    key = next(key for key in weights if key.endswith(kept))
    assert torch.equal(weights[key], load_file(teacher / "model.safetensors")[key])


@pytest.mark.parametrize("kind", ["pairs", "nothing"])
def test_stopped_and_resumed_it_is_the_run_that_was_not(
    kind: str, run: Callable[..., Path], teacher: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = inputs_of(kind, pairs, tmp_path)
    whole = run(*options, name="whole")
    inner = loop.Trainer._train

    def stopping(self: Any, batch: Any, step: int) -> Any:
        if step == 5:
            signal.raise_signal(signal.SIGINT)
        return inner(self, batch, step)

    monkeypatch.setattr(loop.Trainer, "_train", stopping)
    assert vlmerge("distill", teacher, *SHORT, "--out", tmp_path / "stopped", *options).code == 130
    monkeypatch.undo()
    again = run(*options, "--resume", name="stopped")
    assert losses(whole) == losses(again)
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (whole / "best" / "model.safetensors").read_bytes() == (again / "best" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no inputs: give one of --data SOURCE, --images FOLDER and --no-data"),
        ({"data": ["a"], "images": "b"}, "data and images together"),
        ({"data": ["a"], "texts": "b"}, "texts go with images"),
        ({"synthetic": True, "words": "own"}, "there are no texts"),
        ({"data": ["a"], "loss": {"alone": 0, "joint": 0, "tables": 0}}, "every part of the loss has weight 0"),
    ],
)
def test_inputs_that_make_no_sense(given: dict[str, Any], said: str, teacher: Path) -> None:
    with pytest.raises(UsageError, match=said):
        load(look(teacher), None, {"checkpoint": str(teacher), **given}, [])


def test_what_cannot_be_merged_or_read_is_said_before_anything_is_done(
    teacher: Path, pairs: Path, tmp_path: Path
) -> None:
    ok("merge", teacher, "-o", tmp_path / "merged")
    said = fails(1, "distill", tmp_path / "merged", "--data", pairs, "--out", tmp_path / "run")
    assert "the checkpoint is modality-agnostic already" in said
    assert not (tmp_path / "run").exists()
    said = fails(1, "distill", teacher, "--images", tmp_path / "none", "--out", tmp_path / "run")
    assert "no such folder" in said
