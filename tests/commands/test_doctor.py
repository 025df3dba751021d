"""``vlmerge doctor``: the first line says what is wrong, the exit code how bad it is; nothing is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vlmerge_cli
from tests.helpers import encode, expert_key, ok, save, save_all, save_sharded, tiny, vlmerge
from vlmerge_cli.layouts.survey import detect


def whole(folder: Path) -> str:
    save_all(folder, tiny())
    return "ckpt.safetensors"


def half(folder: Path) -> str:
    save_sharded(folder / "m", tiny())
    (folder / "m/model.safetensors.index.json").unlink()
    (folder / "m/model-00002-of-00002.safetensors").unlink()
    return "m"


def part(folder: Path) -> str:
    return f"{half(folder)}/model-00001-of-00002.safetensors"


def pointer(folder: Path) -> str:
    (folder / "p.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n")
    return "p.safetensors"


def cut(folder: Path) -> str:
    (folder / "c.safetensors").write_bytes(encode(tiny())[:-1])
    return "c.safetensors"


def emptied(folder: Path) -> str:
    save(folder / "z.safetensors", {key: np.zeros(0, np.float32) for key in tiny()})
    return "z.safetensors"


def second_copy(folder: Path) -> str:
    save(folder / "e.safetensors", {**tiny(), **{f"model_ema.{key}": value for key, value in tiny().items()}})
    return "e.safetensors"


def adapter(folder: Path) -> str:
    save(folder / "a/model.safetensors", tiny())
    (folder / "a/adapter_config.json").write_text("{}")
    return "a"


def missing_expert(folder: Path) -> str:
    save(folder / "x.safetensors", {k: v for k, v in tiny().items() if k != expert_key(1, "mlp.fc1.weight", "v")})
    return "x.safetensors"


def pickled(folder: Path) -> str:
    torch.save({"w": torch.ones(3)}, folder / "w.pt")
    return "w.pt"


def torn_state(folder: Path) -> str:
    (folder / "run/state/step-00000004").mkdir(parents=True)
    (folder / "run/pretrain.yaml").write_text("steps: 4\n")
    return "run"


def bad_records(folder: Path) -> str:
    (folder / "run").mkdir()
    (folder / "run/pretrain.yaml").write_text("steps: 4\n")
    (folder / "run/metrics.jsonl").write_text("[1]\n")
    return "run"


def zeros(folder: Path) -> str:
    save(folder / "0.safetensors", without_vision())
    return "0.safetensors"


def without_vision() -> dict[str, np.ndarray]:
    """As a model is saved whose vision expert was never loaded."""
    survey, _ = detect(tiny(), "")
    own = {keys["v"] for keys in survey.groups.values() if "v" in keys}
    return {key: np.zeros_like(value) if key in own else value for key, value in tiny().items()}


def misnamed(folder: Path) -> str:
    save(folder / "s.bin", tiny())
    return "s.bin"


def strangers_records(folder: Path) -> str:
    (folder / "records").mkdir()
    (folder / "records/x.jsonl").write_text("[1]\n")
    return "records"


def captions(folder: Path) -> str:
    rows = [{"filename": "gone.jpg", "split": "train", "sentences": ["a cat"]}]
    (folder / "d").mkdir()
    (folder / "d/dataset.json").write_text(json.dumps({"images": rows}))
    return "d"


def address(folder: Path) -> str:
    return "https://huggingface.co/acme/x"


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "f.safetensors")
    return "f.safetensors"


def not_a_number(folder: Path) -> str:
    save(folder / "n.safetensors", {**tiny(), KEY: np.full_like(tiny()[KEY], np.nan)})
    return "n.safetensors"


def infinite_outside(folder: Path) -> str:
    save(folder / "i.safetensors", {**tiny(), "head.weight": np.array([1, np.inf, 2], np.float16)})
    return "i.safetensors"


def grams_of_another(folder: Path) -> str:
    about = json.dumps({"checkpoint": "sha256:another", "tokens": {KEY: 8}})
    save(folder / "g.safetensors", tiny())
    save(folder / "g.grams.safetensors", {KEY: np.ones(21)}, {"vlmerge": about})
    return "g.safetensors"


def grams_alone(folder: Path) -> str:
    grams_of_another(folder)
    return "g.grams.safetensors"


def grams_of_other_data(folder: Path) -> str:
    save(folder / "o.safetensors", tiny(), {"vlmerge": json.dumps({"data": ["coco"]})})
    about = json.dumps({"data": ["flickr30k"], "tokens": {KEY: 8}})
    save(folder / "o.grams.safetensors", {KEY: np.ones(21)}, {"vlmerge": about})
    return "o.safetensors"


KEY = expert_key(1, "mlp.fc1.weight", "v")


@pytest.mark.parametrize(
    ("build", "code", "words"),
    [
        (whole, 0, "a checkpoint (vl-merging, specific), whole"),
        (half, 1, "shard 1 of 2"),
        (part, 1, "shard 1 of 2 of a model alone"),
        (pointer, 1, "git-lfs pointer"),
        (cut, 1, "cut off"),
        (emptied, 1, "ZeRO-3"),
        (second_copy, 3, "under 'model_ema.'"),
        (adapter, 3, "adapter (LoRA)"),
        (missing_expert, 1, "expert v is missing"),
        (pickled, 3, "run vlmerge convert"),
        (torn_state, 1, "step-00000004 is torn"),
        (bad_records, 1, "line 1 is not a record"),
        (zeros, 3, "expert v is all zeros"),
        (misnamed, 0, "whole"),
        (strangers_records, 1, "line 1 is not a record"),
        (captions, 1, "missing image"),
        (address, 1, "name it as acme/x"),
        (pipe, 1, "is a pipe"),
        (not_a_number, 1, f"NaN or infinity in {KEY}"),
        (infinite_outside, 3, "NaN or infinity in head.weight"),
        (grams_of_another, 3, "g.grams.safetensors was collected from another checkpoint"),
        (grams_alone, 3, "collected from another checkpoint than g.safetensors"),
        (grams_of_other_data, 3, "collected on flickr30k, the checkpoint was trained on coco"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_first_line_says_what_is_wrong(
    build: Callable[[Path], str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = vlmerge("doctor", name)
    assert (found.code, found.err) == (code, "")
    first = found.out.splitlines()[0]
    assert first.startswith(f"{name}: ")
    assert words in first
    assert sorted(tmp_path.rglob("*")) == before
    (document,) = vlmerge("doctor", name, "--json").document
    assert document["state"] == {0: "whole", 1: "broken", 3: "doubtful"}[code]


def test_what_commands_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = ok("doctor", whole(tmp_path)).out
    assert "merge: 39 slots into one transformer" in found
    assert "regmean: uses ckpt.grams.safetensors" in found
    assert vlmerge("doctor", "ckpt.grams.safetensors").out.startswith("ckpt.grams.safetensors: the file does not say")


def test_of_several_the_worst_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [whole(tmp_path), second_copy(tmp_path)]
    assert vlmerge("doctor", *names).code == 3
    assert vlmerge("doctor", *names, pointer(tmp_path)).code == 1


def test_nan_is_looked_for_in_every_piece_and_not_in_headers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmerge_cli.path_diagnosis.PIECE_BYTES", 8)
    tensors = {key: value.copy() for key, value in tiny().items()}
    tensors[KEY].ravel()[-1] = -np.inf
    path = save(tmp_path / "n.safetensors", tensors)
    found = vlmerge_cli.doctor(path)
    assert (found.state, found.problems[0]) == ("broken", f"NaN or infinity in {KEY}")
    assert dict(found.commands)["merge"] == "refuses it: NaN or infinity"
    assert vlmerge_cli.doctor(path, quick=True).state == "whole"
    assert vlmerge("doctor", path, "--quick").code == 0
    assert vlmerge_cli.doctor(save(tmp_path / "ok.safetensors", tiny())).state == "whole"


def test_a_distance_of_zeros_says_so(tmp_path: Path) -> None:
    found = vlmerge("distance", save(tmp_path / "0.safetensors", without_vision()))
    assert "say nothing" in found.err
    assert "say nothing" not in vlmerge("distance", save(tmp_path / "1.safetensors", tiny())).err


def test_layers_that_are_merged_already_are_not_compared(tmp_path: Path) -> None:
    save(tmp_path / "ckpt.safetensors", tiny())
    ok("merge", tmp_path / "ckpt.safetensors", "-o", tmp_path / "part.safetensors", "--keep", "layers.1.*")
    (found,) = ok("doctor", tmp_path / "part.safetensors", "--json").document
    assert dict(found["commands"])["distance"] == "compares v, l in 1 layers"
