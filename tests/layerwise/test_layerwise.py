"""``merge --method layerwise`` from the command line: one file like any merge, closer to its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import fails, load, ok, vlmerge
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.layerwise.walk import Walk
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel

pytestmark = pytest.mark.xdist_group("layerwise")  # its fixtures are made once


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(ShapesOptions(image_px=8, train=200, val=16, test=8), "coco", tmp_path_factory.mktemp("made"))


@pytest.fixture
def ckpt(tmp_path: Path, pairs: Path) -> Path:
    torch.manual_seed(0)
    config = preset(
        "micro", architecture="specific", heads=("itc", "itm", "mlm"), max_text_tokens=20, text_bias_tokens=20,
        vocab_size=91,
    )  # fmt: skip
    VLModel(config).save_pretrained(tmp_path / "ckpt", about={"tokenizer": "bundled", "data": [str(pairs)]})
    return tmp_path / "ckpt"


def test_it_merges_on_what_the_checkpoint_records(ckpt: Path, pairs: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "-o", tmp_path / "average")
    said = json.loads(
        ok("merge", ckpt, "--method", "layerwise", "--examples", "100", "-o", tmp_path / "fitted", "--json").out
    )
    assert said["learnt"]["fitted_on"]["num_examples"] == 100
    average, fitted = load(tmp_path / "average" / "model.safetensors"), load(tmp_path / "fitted" / "model.safetensors")
    assert average.keys() == fitted.keys()
    changed = {key for key in average if (average[key] != fitted[key]).any()}
    assert changed
    assert all(".attn." in key or ".mlp." in key for key in changed)
    assert any(key.endswith("q_bias") for key in changed)
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt", "average", "fitted"}
    recipe = json.loads(ok("inspect", tmp_path / "fitted", "--json").out)["recipe"]
    assert recipe["method"] == "layerwise"
    assert recipe["settings"] == {"joint-weight": 4.0, "second-weight": 0.1, "ridge": 1e-6}
    again = tmp_path / "again"
    ok("merge", ckpt, "--method", "layerwise", "--examples", "100", "--data", pairs, "-o", again)
    assert (again / "model.safetensors").read_bytes()[-1000:] == (
        tmp_path / "fitted" / "model.safetensors"
    ).read_bytes()[-1000:]


def test_stopped_and_typed_again_it_goes_on(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["merge", ckpt, "--method", "layerwise", "--examples", "64", "-o"]
    ok(*words, tmp_path / "whole.safetensors")
    layer = Walk._layer

    def stopping(self: Walk, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        layer(self, number)

    monkeypatch.setattr(Walk, "_layer", stopping)
    assert vlmerge(*words, tmp_path / "stopped.safetensors").code == 130
    assert not (tmp_path / "stopped.safetensors").exists()
    done = []
    monkeypatch.setattr(Walk, "_layer", lambda self, number: (done.append(number), layer(self, number)))
    ok(*words, tmp_path / "stopped.safetensors")
    assert done == [2, 3]
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "stopped.safetensors").read_bytes()


def test_what_it_cannot_do_is_said_before_any_work(ckpt: Path, tmp_path: Path) -> None:
    assert "--data and --examples belong to layerwise" in fails(2, "merge", ckpt, "--data", "shapes")
    assert "leave --keep and --experts-for out" in fails(
        2, "merge", ckpt, "--method", "layerwise", "--keep", "layers.0.*"
    )
    VLModel.from_pretrained(ckpt).save_pretrained(tmp_path / "bare", about={"tokenizer": "bundled", "data": []})
    assert "ridge" in fails(2, "merge", ckpt, "--method", "layerwise", "--ridge", "-1")
    document = json.loads(ok("merge", ckpt, "--method", "layerwise", "--dry-run", "--json").out)
    assert document["method"] == "layerwise"
