"""Which expert serves which token, who may look at whom, and that shared states change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.model.conftest import FIVE, batch, build, every_output, micro
from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import ARCHITECTURES
from vlmerge_cli.model.hidden import State
from vlmerge_cli.weights.load import load_weights
from vlmerge_cli.weights.vlmodel import VLModel

VARIANTS = [(name, False) for name in ARCHITECTURES] + [
    ("custom-ln", True),
    ("custom-ffn", True),
    ("agnostic", True),
]


@pytest.mark.parametrize(("architecture", "joint"), VARIANTS)
@torch.no_grad()
def test_equal_experts_are_the_agnostic_model(architecture: str, joint: bool) -> None:
    """When all experts are equal, every pass and head gives what the agnostic model gives."""
    agnostic = build(micro("agnostic", joint_below_fusion=joint))
    owned = VLModel(micro(architecture, joint_below_fusion=joint)).eval()
    load_weights(owned, agnostic.state_dict())
    inputs = batch(owned.config)
    expected, found = every_output(agnostic, inputs), every_output(owned, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def changed(architecture: str, expert: str, layer: int) -> set[str]:
    """Outputs that react to the experts named ``expert`` of one layer."""
    model = build(micro(architecture))
    inputs = batch(model.config)
    before = every_output(model, inputs)
    for name, parameter in model.transformer.blocks[layer].named_parameters():
        if f".{expert}." in name:
            parameter.add_(torch.randn_like(parameter))
    after = every_output(model, inputs)
    return {name for name in before if not torch.equal(before[name], after[name])}


TEXT = {"text alone", "itc text"}
IMAGE = {"image alone", "itc image", "classification", "segmentation"}
TEXT_SECOND = {"text by vl", "itc text second"}
IMAGE_SECOND = {"image by vl", "itc image second"}
JOINT = {"joint text", "joint image", "itm", "mlm", "vqa", "nlvr2"}


@pytest.mark.parametrize("architecture", FIVE[:4])
@torch.no_grad()
def test_each_expert_serves_its_own_passes(architecture: str) -> None:
    below, top = 1, 3
    assert changed(architecture, "l", below) == TEXT | TEXT_SECOND | JOINT
    assert changed(architecture, "v", below) == IMAGE | IMAGE_SECOND | JOINT
    assert changed(architecture, "l", top) == TEXT
    assert changed(architecture, "v", top) == IMAGE
    assert changed(architecture, "vl", top) == TEXT_SECOND | IMAGE_SECOND | JOINT


@pytest.mark.parametrize(("architecture", "joint"), [*((name, False) for name in FIVE), ("custom-ln", True)])
@torch.no_grad()
def test_first_layer_where_text_reacts_to_the_image(architecture: str, joint: bool) -> None:
    model = build(micro(architecture, joint_below_fusion=joint))
    inputs = batch(model.config)
    room = model.config.max_text_tokens
    text: list[dict[int, torch.Tensor]] = []
    for layer, block in enumerate(model.transformer.blocks):
        block.register_forward_hook(
            lambda _, args, out, layer=layer: text[-1].setdefault(layer, out) if "l" in str(args[1]) else None
        )
    for image in (inputs.image, inputs.image + 1):
        text.append({})
        model.joint(inputs.ids, inputs.mask, image)
    reacts = [layer for layer in text[0] if not torch.equal(text[0][layer][:, :room], text[1][layer][:, :room])]
    assert reacts[0] == (0 if joint else model.config.fusion_layer)


@pytest.mark.parametrize("joint", [False, True])
@torch.no_grad()
def test_states_can_be_paired_anew(joint: bool) -> None:
    """Hard negatives from states computed once equal passes of their own."""
    model = build(micro("custom-ln", joint_below_fusion=joint))
    inputs = batch(model.config, size=4)
    text, image = model.text(inputs.ids, inputs.mask), model.image(inputs.image)
    rows = torch.tensor([2, 0, 3, 1])
    own = model.joint(inputs.ids, inputs.mask, inputs.image[rows])
    shared = model.fuse(text, image[rows])
    torch.testing.assert_close(shared.text, own.text)
    both = model.fuse(State.cat([text, text[rows]]), State.cat([image[rows], image]))
    torch.testing.assert_close(both.image[:4], own.image)
    again = model.joint(inputs.ids[rows], inputs.mask[rows], inputs.image)
    torch.testing.assert_close(both.text[4:], again.text)


@torch.no_grad()
def test_padding_is_never_looked_at() -> None:
    model = build(micro())
    inputs = batch(model.config)
    other = torch.where(inputs.mask, inputs.ids, torch.full_like(inputs.ids, 7))
    before, after = every_output(model, inputs), every_output(model, inputs._replace(ids=other))
    for name in JOINT | TEXT | TEXT_SECOND | IMAGE:
        if name in ("joint text", "text alone", "text by vl", "mlm"):
            assert torch.equal(before[name][inputs.mask], after[name][inputs.mask]), name
        else:
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@torch.no_grad()
def test_shorter_texts_need_no_padding(positions: str) -> None:
    model = build(micro(positions=positions))
    inputs = batch(model.config)
    mask = torch.zeros_like(inputs.mask)
    mask[:, :4] = True
    padded = model.joint(inputs.ids, mask, inputs.image)
    short = model.joint(inputs.ids[:, :4], None, inputs.image)
    torch.testing.assert_close(padded.text[:, :4], short.text, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.image, short.image, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_text_with_no_words_stays_finite() -> None:
    for positions in ("relative", "absolute"):
        model = build(micro(positions=positions))
        inputs = batch(model.config)
        empty = inputs._replace(mask=torch.zeros_like(inputs.mask))
        assert all(torch.isfinite(value).all() for value in every_output(model, empty).values())


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@torch.no_grad()
def test_order_of_words_and_patches_matters(positions: str) -> None:
    model = build(micro(positions=positions))
    inputs = batch(model.config)
    turned = inputs.image.flip(-1)
    patches_moved = torch.cat([inputs.image[..., 4:], inputs.image[..., :4]], dim=-1)
    text, words_moved = model.text(inputs.ids), model.text(inputs.ids[:, [0, 2, 1, 3, 4, 5]])
    cls = [model.alone(state)[0, 0] for state in (text, words_moved)]
    assert not torch.allclose(cls[0], cls[1])
    cls = [model.alone(model.image(image))[0, 0] for image in (inputs.image, turned, patches_moved)]
    assert not torch.allclose(cls[0], cls[1])
    assert not torch.allclose(cls[0], cls[2])


def test_stochastic_depth_decides_once_a_sample_for_both_modalities() -> None:
    model = build(micro(drop_path=0.9, dropout=0.0, layer_scale=1.0)).train()
    seen: list[tuple[str, torch.Tensor]] = []
    for block in model.transformer.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append((args[1][0][0], args[4])))
    inputs = batch(model.config, size=64)
    torch.manual_seed(1)
    model.joint(inputs.ids, inputs.mask, inputs.image)
    per_layer = [[keep for expert, keep in seen if expert == which] for which in ("l", "v")]
    assert len(per_layer[0]) == len(per_layer[1]) == 2
    for text, image in zip(*per_layer, strict=True):
        assert torch.equal(text, image)
    top = [keep for expert, keep in seen if expert == "vl"][-1]  # (2, B), rate 0.9
    torch.testing.assert_close(top.unique(), torch.tensor([0.0, 10.0]))
    assert 0.02 < (top > 0).float().mean() < 0.25
    first = seen[0][1]
    assert (first == 1).all()


def test_stochastic_depth_and_dropout_are_off_in_evaluation() -> None:
    model = build(micro(drop_path=0.9, dropout=0.5))
    inputs = batch(model.config)
    assert not model.is_random
    assert torch.equal(model(*inputs).text, model(*inputs).text)
    model.train()
    assert model.is_random
    assert not torch.equal(model(*inputs).text, model(*inputs).text)
    assert not build(micro(drop_path=0.0, dropout=0.0)).train().is_random


@torch.no_grad()
def test_what_heads_compute() -> None:
    model = build(micro())
    inputs = batch(model.config)
    text, image = model.text(inputs.ids, inputs.mask), model.image(inputs.image)
    joint = model.fuse(text, image)
    torch.testing.assert_close(model.features(text).norm(dim=-1), torch.ones(3))
    pooled = torch.tanh(model.pooler.dense(joint.text[:, 0]))
    torch.testing.assert_close(model.itm(joint), model.itm_score.fc(pooled))
    linear = model.img_cls_classifier
    torch.testing.assert_close(model.classify(image), linear(model.alone(image).mean(1)))
    second = model.fuse(text, model.image(inputs.image, second=True))
    expected = model.nlvr2_classifier(torch.cat([pooled, model.pooled(second)], -1))
    torch.testing.assert_close(model.nlvr2(joint, second), expected)
    some = inputs.mask & (inputs.ids > 3)
    torch.testing.assert_close(model.mlm(joint.text[some]), model.mlm(joint.text)[some])
    segments = model.segment(image)
    assert segments.shape == (3, 3, 8, 8)
    patches = model.seg_classifier(model.alone(image)[:, 1:])  # (3, 4, 3)
    torch.testing.assert_close(segments[:, :, 0, 0], patches[:, 0])
    torch.testing.assert_close(segments[:, :, 7, 0], patches[:, 2])


def test_wrong_input_is_refused_in_words() -> None:
    model = build(micro(heads=("vqa",)))
    inputs = batch(model.config)
    with pytest.raises(UsageError, match="images of 9×9, the model takes 8×8"):
        model.image(torch.zeros(1, 3, 9, 9))
    with pytest.raises(UsageError, match="7 text tokens, the model takes 6"):
        model.text(torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(UsageError, match="only a model with the nlvr2 head"):
        model.image(inputs.image, second=True)
    with pytest.raises(UsageError, match="the model has no itm_score: its heads are vqa"):
        model.itm(model(*inputs))


@pytest.mark.parametrize("architecture", FIVE)
def test_keys_are_the_published_ones(architecture: str) -> None:
    model = VLModel(micro(architecture, heads=("itc", "itm", "mlm")))
    keys = set(model.state_dict())
    for name, own in [("attn", model.config.own_attention), ("mlp", model.config.own_ffn),
                      ("norm1", model.config.own_norm1), ("norm2", model.config.own_norm2)]:  # fmt: skip
        found = {key.split(".")[4] for key in keys if key.startswith(f"transformer.blocks.3.{name}.")}
        assert found == ({"v", "l", "vl"} if own else found - {"v", "l", "vl"}), name
    assert {"mlm_score.transform.dense.weight", "itm_score.fc.bias", "ifm_vl_text_proj.fc.weight"} <= keys
    assert {"pooler.dense.bias", "logit_vl_scale", "text_embeddings.LayerNorm.weight"} <= keys
    assert not any("index" in key or "mask_token" in key or "temporal" in key for key in keys)
    assert isinstance(model.transformer.blocks[0], nn.Module)


@torch.no_grad()
def test_segments_are_enlarged_bilinearly() -> None:
    """Pixel y lies at (y + ½) / patch - ½ between the centres of patches, beyond the outermost at the nearest."""
    model = build(micro(heads=("segmentation",))).double()
    inputs = batch(model.config)
    image = model.image(inputs.image.double())
    coarse = model.seg_classifier(model.alone(image)[:, 1:])  # (B, g², segments)
    grid, px = model.config.grid, model.config.image_px
    place = ((torch.arange(px).double() + 0.5) * grid / px - 0.5).clamp(0, grid - 1)
    shares = (1 - (place[:, None] - torch.arange(grid)).abs()).clamp(min=0)  # (px, g), rows add up to 1
    expected = torch.einsum("yi,xj,bijs->bsyx", shares, shares, coarse.unflatten(1, (grid, grid)))
    torch.testing.assert_close(model.segment(image), expected)


def test_what_heads_say_is_float32_under_autocast() -> None:
    model = build(micro())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        said = every_output(model, batch(model.config))
    heads = {name for name in said if not name.endswith(("alone", "by vl")) and not name.startswith("joint")}
    assert {said[name].dtype for name in heads} == {torch.float32}
    assert len(heads) == 10
