"""The reference's own outputs, reproduced from the weights it computed them with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import goldens_folder
from vlmerge_cli.weights.vlmodel import VLModel

MANIFEST = goldens_folder() / "forward" / "manifest.json"
CASES = json.loads(MANIFEST.read_text())["cases"] if MANIFEST.exists() else {}

#: Stored by the reference, used by nothing.
NOT_USED = {
    "mask_for_combining_temporal", "relative_position_index", "temporal_relative_position_bias_table",
    "temporal_relative_position_index", "text_embeddings.position_embeddings.weight",
    "text_embeddings.position_ids",
    "text_imag_relative_position_index", "text_relative_position_index", "text_video_relative_position_index",
    "transformer.mask_token", "video_relative_position_index", "vl_text_imag_relative_position_index",
    "vl_text_video_relative_position_index",
}  # fmt: skip


def load(folder: Path, case: dict[str, object]) -> VLModel:
    joint = "joint" in str(case["attention_below_layer_10"])
    return VLModel.from_pretrained(folder / "merge" / str(case["weights"]), joint_below_fusion=joint)


def blocks_of_joint_pass(model: VLModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Output of every block, text first."""
    seen: dict[int, list[Tensor]] = {}
    for layer, block in enumerate(model.transformer.blocks):
        block.register_forward_hook(lambda _, __, out, layer=layer: seen.setdefault(layer, []).append(out))
    model.joint(inputs["text_ids"], inputs["text_masks"], inputs["image"])
    return {f"layer{layer}.joint": torch.cat(parts, dim=1) for layer, parts in seen.items()}


def outputs_of(model: VLModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    text, image = model.text(inputs["text_ids"], inputs["text_masks"]), model.image(inputs["image"])
    joint = model.joint(inputs["text_ids"], inputs["text_masks"], inputs["image"])
    return {
        "joint.text_feats": joint.text,
        "joint.image_feats": joint.image,
        "joint.cls_feats": model.pooled(joint),
        "joint.mlm_logits": model.mlm(joint.text),
        "joint.itm_logits": model.itm(joint),
        "image.cls_feats": model.features(image),
        "image.cls_vlffn_feats": model.features(image, second=True),
        "text.cls_feats": model.features(text),
        "text.cls_vlffn_feats": model.features(text, second=True),
        **blocks_of_joint_pass(model, inputs),
    }


def test_golden_cases_are_there() -> None:
    assert len(CASES) == 7


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_golden_outputs(goldens: Path, name: str) -> None:
    expected = load_file(goldens / "forward" / CASES[name]["file"])
    model = load(goldens, CASES[name])
    found = outputs_of(model, load_file(goldens / "forward" / "inputs.safetensors"))
    assert len(expected) == 13
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_golden_joint_pass_from_shared_states(goldens: Path, name: str) -> None:
    """States that were computed once give the joint pass too, also where it attends jointly from layer 0."""
    expected = load_file(goldens / "forward" / CASES[name]["file"])
    inputs = load_file(goldens / "forward" / "inputs.safetensors")
    model = load(goldens, CASES[name])
    joint = model.fuse(model.text(inputs["text_ids"], inputs["text_masks"]), model.image(inputs["image"]))
    torch.testing.assert_close(joint.text, expected["joint.text_feats"], atol=1e-5, rtol=0)
    torch.testing.assert_close(joint.image, expected["joint.image_feats"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_golden_weights_are_accounted_for(goldens: Path, name: str) -> None:
    weights = load_file(goldens / "merge" / CASES[name]["weights"])
    model = load(goldens, CASES[name])
    report = model.start_report
    assert report is not None
    assert set(report.unused) == NOT_USED & set(weights)
    assert not report.fresh
    assert not report.resized
    assert set(report.loaded) | set(report.unused) == set(weights)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key
