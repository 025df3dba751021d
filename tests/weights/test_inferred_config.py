"""Where fusion begins is told by the experts: it is stored before they are gone, and what is guessed is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.model.conftest import batch, build, micro
from vlmerge_cli.cli import app
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.weights.vlmodel import VLModel

RUN = CliRunner()
#: As deep as the published base model, whose fusion begins at layer 10.
DEEP = {"num_layers": 12, "fusion_layer": 8, "text_bias_tokens": 196, "max_text_tokens": 20, "vocab_size": 96}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Of a specific model, in a checkpoint that carries no configuration."""
    monkeypatch.chdir(tmp_path)
    tensors = build(micro("specific", heads=("itc", "itm"), **DEEP)).state_dict()
    torch.save({"state_dict": tensors}, "old.ckpt")
    save_file(tensors, "plain.safetensors")
    return tensors


@pytest.mark.parametrize("source", ["old.ckpt", "plain.safetensors"])
@torch.no_grad()
def test_a_merge_knows_where_fusion_begins(state: dict[str, torch.Tensor], source: str) -> None:
    said = ""
    if source.endswith(".ckpt"):
        said = invoked("convert", source, "new.safetensors").stderr
        source = "new.safetensors"
    said += invoked("merge", source, "-o", "merged.safetensors").stderr
    assert "the weights do not tell max_text_tokens: taken to be max_text_tokens 40" in said
    found = VLModel.from_pretrained("merged.safetensors")
    assert (found.config.fusion_layer, found.config.architecture) == (8, "agnostic")
    expected = VLModel(micro("agnostic", heads=("itc", "itm"), **DEEP)).eval()
    expected.load_state_dict(load_file("merged.safetensors"))
    inputs = batch(expected.config)
    both = [model.joint(inputs.ids, inputs.mask, inputs.image).text for model in (found, expected)]
    torch.testing.assert_close(*both)


def test_what_has_to_be_guessed_is_said_and_can_be_given(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder(ShapesOptions(image_px=8, train=8, val=12, test=8), "coco", tmp_path / "made")
    model = build(micro("agnostic", heads=("itc",), **DEEP))
    model.save_pretrained("whole", about={"tokenizer": "bundled"})
    save_file(model.state_dict(), "bare.safetensors")
    assert VLModel.from_pretrained("bare.safetensors").config.fusion_layer == 10
    said = " ".join(capsys.readouterr().err.split())
    assert "bare.safetensors: the weights do not tell fusion_layer, max_text_tokens" in said
    ask = ["--task", "retrieval", "--tokenizer", "bundled", "--data", str(data), "--json"]
    given = invoked("evaluate", "bare.safetensors", *ask, "--set", "fusion_layer=8", "--set", "max_text_tokens=20")
    assert "do not tell" not in given.stderr
    whole = invoked("evaluate", "whole", *ask)
    assert json.loads(given.stdout)["scores"] == json.loads(whole.stdout)["scores"]
    refused = RUN.invoke(app, ["evaluate", "whole", *ask, "--set", "fusion_layer=9"])
    assert (refused.exit_code, "the checkpoint says 8" in refused.stderr) == (2, True), refused.stderr


def invoked(*words: str) -> Result:
    result = RUN.invoke(app, words)
    assert result.exit_code == 0, result.stderr
    return result
