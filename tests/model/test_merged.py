"""What merging makes of a model loads as its agnostic form, and equal experts lose nothing by any method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import helpers
from tests.model.conftest import FIVE, batch, build, every_output, micro
from vlmerge_cli.methods import METHODS
from vlmerge_cli.outputs.replacing import GRAMS
from vlmerge_cli.weights.load import load_weights
from vlmerge_cli.weights.vlmodel import VLModel

OWNED = [name for name in FIVE if name != "agnostic"]


@pytest.mark.parametrize("architecture", OWNED)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_merging_equal_experts_returns_that_expert(architecture: str, method: str, tmp_path: Path) -> None:
    agnostic = build(micro("agnostic"))
    owned = VLModel(micro(architecture)).eval()
    load_weights(owned, agnostic.state_dict())
    owned.save_pretrained(tmp_path / "ckpt")
    agnostic.save_pretrained(tmp_path / "base")
    tensors = {key: value.numpy() for key, value in owned.state_dict().items()}
    helpers.save(tmp_path / f"ckpt{GRAMS}", helpers.tiny_grams(tensors))
    options = ["--base", tmp_path / "base"] if method == "arithmetic" else []
    helpers.ok("merge", tmp_path / "ckpt", "-m", method, "-o", tmp_path / "merged", *options)
    merged = VLModel.from_pretrained(tmp_path / "merged")
    assert merged.config == owned.config.merged()
    inputs = batch(owned.config)
    expected, found = every_output(owned, inputs), every_output(merged, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
def test_a_merge_with_kept_slots_keeps_the_configuration(tmp_path: Path) -> None:
    model = build(micro("specific"))
    model.save_pretrained(tmp_path / "ckpt")
    helpers.ok("merge", tmp_path / "ckpt", "--keep", "layers.*", "-o", tmp_path / "kept")
    kept = VLModel.from_pretrained(tmp_path / "kept")
    assert kept.config == model.config
    assert all(torch.equal(value, kept.state_dict()[key]) for key, value in model.state_dict().items())
