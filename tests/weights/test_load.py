"""Starting weights: what is taken from where, what is resized, what is listed and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.model.conftest import FIVE, batch, build, micro
from vlmerge_cli.errors import CheckpointError, PlanError, UsageError
from vlmerge_cli.model import positions
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.weights.inferred_config import infer_config
from vlmerge_cli.weights.load import StartReport, load_weights, plan
from vlmerge_cli.weights.vlmodel import VLModel

WIDTH, HEADS, LAYERS, GRID = 16, 2, 4, 2


def check_accounted(report: StartReport, model: VLModel, source: dict[str, Tensor]) -> None:
    """Every parameter is in exactly one list, and every tensor of the source is used or listed."""
    lists = [*report.loaded, *report.resized, *report.fresh]
    assert sorted(lists) == sorted(name for name, _ in model.named_parameters())
    assert set(report.unused) <= set(source)


# --- an agnostic seed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", FIVE)
def test_a_seed_is_copied_into_every_expert(architecture: str) -> None:
    seed = build(micro("agnostic"), seed=1).state_dict()
    model = VLModel(micro(architecture))
    report = load_weights(model, seed)
    check_accounted(report, model, seed)
    assert not report.fresh
    assert not report.resized
    assert not report.unused
    state = model.state_dict()
    for key, source in report.loaded.items():
        assert torch.equal(state[key], seed[source]), key
    if architecture == "specific":
        for expert in ("v", "l", "vl"):
            key = f"transformer.blocks.3.mlp.{expert}.fc1.weight"
            assert report.loaded[key] == "transformer.blocks.3.mlp.fc1.weight"


def test_a_seed_can_go_into_some_experts() -> None:
    seed = build(micro("agnostic"), seed=1).state_dict()
    model = VLModel(micro())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, seed, into=("v",))
    assert report.fresh
    for key, value in model.state_dict().items():
        if ".l." in key or ".vl." in key:
            assert key in report.fresh
            assert torch.equal(value, before[key])
    with pytest.raises(UsageError, match="no expert 'x'"):
        load_weights(model, seed, into=("x",))


def test_experts_do_not_fit_a_shared_model_unmerged() -> None:
    source = VLModel(micro()).state_dict()
    model = VLModel(micro("agnostic"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(PlanError, match="the source has one for each expert, the model shares it") as raised:
        load_weights(model, source)
    assert "merge first" in str(raised.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_missing_expert_is_refused() -> None:
    source = VLModel(micro(fusion_layer=3)).state_dict()
    with pytest.raises(PlanError, match=r"blocks\.2\.\w+\.vl\.[\w.]+: the source has none"):
        load_weights(VLModel(micro(fusion_layer=2)), source)


# --- the same architecture at another size --------------------------------------------------------------------


@torch.no_grad()
def test_another_image_size_and_text_length() -> None:
    old = build(micro(heads=("itm",)))
    model = VLModel(micro(heads=("itm", "nlvr2"), image_px=16, max_text_tokens=9, text_bias_tokens=10))
    with pytest.raises(PlanError, match=r"relative_position_bias_table: the source has \(30, 8\)"):
        load_weights(model, old.state_dict())  # nothing says what 30 rows are for
    report = load_weights(model, old.state_dict(), config=old.config)
    check_accounted(report, model, old.state_dict())
    assert set(report.resized) == {"relative_position_bias_table", "token_type_embeddings.weight"}
    assert report.resized["relative_position_bias_table"] == (
        "2×2 patches and 8 text tokens to 4×4 patches and 10 text tokens"
    )
    assert set(report.fresh) == {key for key in model.state_dict() if key.startswith("nlvr2_classifier.")}
    expected = positions.resize_table(old.relative_position_bias_table, old.room, model.room)
    assert torch.equal(model.relative_position_bias_table, expected)
    types, old_types = model.token_type_embeddings.weight, old.token_type_embeddings.weight
    assert torch.equal(types[:2], old_types)
    assert torch.equal(types[2], old_types[1])
    # The text pass knows nothing of the image: it must be what it was.
    inputs = batch(old.config)
    before = old.alone(old.text(inputs.ids, inputs.mask))
    torch.testing.assert_close(model.eval().alone(model.text(inputs.ids, inputs.mask)), before)


@torch.no_grad()
def test_a_third_token_type_is_dropped_without_nlvr2() -> None:
    old = build(micro(heads=("nlvr2",)))
    model = VLModel(micro(heads=()))
    report = load_weights(model, old.state_dict())
    assert report.resized == {"token_type_embeddings.weight": "the third row left out"}
    assert "nlvr2_classifier.0.weight" in report.unused


@torch.no_grad()
def test_absolute_positions_are_resized() -> None:
    old = build(micro(positions="absolute", heads=()))
    model = VLModel(micro(positions="absolute", heads=(), image_px=16, max_text_tokens=8))
    start = model.text_embeddings.position_embeddings.weight.clone()
    report = load_weights(model, old.state_dict())
    assert set(report.resized) == {"transformer.pos_embed", "text_embeddings.position_embeddings.weight"}
    assert torch.equal(model.transformer.pos_embed, positions.resize_absolute(old.transformer.pos_embed, 2, 4))
    text = model.text_embeddings.position_embeddings.weight
    assert torch.equal(text[:6], old.text_embeddings.position_embeddings.weight)
    assert torch.equal(text[6:], start[6:])
    shorter = VLModel(micro(positions="absolute", heads=(), max_text_tokens=4))
    load_weights(shorter, old.state_dict())
    old_text = old.text_embeddings.position_embeddings.weight
    assert torch.equal(shorter.text_embeddings.position_embeddings.weight, old_text[:4])


def test_index_buffers_tell_the_size_of_a_table() -> None:
    """A table of 8 text tokens for a model of 12, at another image size: only the index tells it apart."""
    old = build(micro("agnostic"))
    source = {**old.state_dict(), "relative_position_index": torch.zeros(5, 5, dtype=torch.int64)}
    model = VLModel(micro("agnostic", image_px=16, text_bias_tokens=12))
    report = load_weights(model, source)
    assert report.unused == ("relative_position_index",)
    assert "2×2 patches and 8 text tokens to" in report.resized["relative_position_bias_table"]


def test_half_precision_sources_are_converted() -> None:
    old = build(micro("agnostic"))
    model = VLModel(micro("agnostic"))
    load_weights(model, {key: value.bfloat16() for key, value in old.state_dict().items()})
    assert model.pooler.dense.weight.dtype == torch.float32
    assert torch.equal(model.pooler.dense.weight, old.pooler.dense.weight.bfloat16().float())


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 32}, r"transformer.cls_token: the source has \(1, 1, 16\), the model \(1, 1, 32\)"),
        ({"num_layers": 5}, "4 layers, the model has 5"),
        ({"num_answers": 7}, r"vqa_classifier.3.weight: the source has \(5, 32\), the model \(7, 32\)"),
        ({"vocab_size": 40}, r"word_embeddings.weight: the source has \(32, 16\), the model \(40, 16\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(changes: dict[str, object], said: str) -> None:
    model = VLModel(micro(**changes))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(PlanError, match=said):
        load_weights(model, build(micro()).state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_parameters_can_be_left_out_by_name() -> None:
    model = VLModel(micro(num_answers=7))
    report = load_weights(model, build(micro()).state_dict(), leave=("vqa_classifier.3.*",))
    assert report.fresh == ("vqa_classifier.3.weight", "vqa_classifier.3.bias")
    assert set(report.unused) == set(report.fresh)
    with pytest.raises(UsageError, match=r"no parameter matches 'vqa_clasifier\.\*'"):
        load_weights(model, {}, leave=("vqa_clasifier.*",))


def test_weights_of_unknown_form_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"weights of an unknown form: keys encoder\.conv\.weight"):
        load_weights(VLModel(micro()), {"encoder.conv.weight": torch.zeros(1)})


def test_whole_numbers_are_no_weights() -> None:
    source = {**build(micro()).state_dict(), "pooler.dense.weight": torch.zeros(16, 16, dtype=torch.int64)}
    with pytest.raises(PlanError, match=r"pooler.dense.weight: int64 is no type of weights"):
        load_weights(VLModel(micro()), source)


# --- BEiT -----------------------------------------------------------------------------------------------------


def beit(shared_table: bool = True, grid: int = GRID, final_norm: str = "norm") -> dict[str, Tensor]:
    """A published image-only checkpoint, every number different."""
    draw = torch.Generator().manual_seed(0)

    def r(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    rows = (2 * grid - 1) ** 2 + 3
    state = {"cls_token": r(1, 1, WIDTH), "mask_token": r(1, 1, WIDTH),
             "patch_embed.proj.weight": r(WIDTH, 3, 4, 4),
             "patch_embed.proj.bias": r(WIDTH), f"{final_norm}.weight": r(WIDTH), f"{final_norm}.bias": r(WIDTH),
             "head.weight": r(1000, WIDTH), "head.bias": r(1000)}  # fmt: skip
    if shared_table:
        state["rel_pos_bias.relative_position_bias_table"] = r(rows, HEADS)
        state["rel_pos_bias.relative_position_index"] = torch.zeros(5, 5, dtype=torch.int64)
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        state |= {
            block + "gamma_1": r(WIDTH), block + "gamma_2": r(WIDTH),
            block + "norm1.weight": r(WIDTH), block + "norm1.bias": r(WIDTH),
            block + "norm2.weight": r(WIDTH), block + "norm2.bias": r(WIDTH),
            block + "attn.qkv.weight": r(3 * WIDTH, WIDTH), block + "attn.q_bias": r(WIDTH),
            block + "attn.v_bias": r(WIDTH), block + "attn.proj.weight": r(WIDTH, WIDTH),
            block + "attn.proj.bias": r(WIDTH), block + "mlp.fc1.weight": r(32, WIDTH),
            block + "mlp.fc1.bias": r(32), block + "mlp.fc2.weight": r(WIDTH, 32), block + "mlp.fc2.bias": r(WIDTH),
        }  # fmt: skip
        if not shared_table:
            state[block + "attn.relative_position_bias_table"] = r(rows, HEADS)
    return state


def as_transformers(state: dict[str, Tensor], prefix: str = "beit.") -> dict[str, Tensor]:
    """The same weights under the Hub's names."""
    inner = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
             "mlp.fc2": "output.dense", "attn.proj": "attention.output.dense", "gamma_1": "lambda_1",
             "gamma_2": "lambda_2"}  # fmt: skip
    outer = {"cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token",
             "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
             "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
             "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
             "fc_norm.weight": "pooler.layernorm.weight", "fc_norm.bias": "pooler.layernorm.bias",
             "rel_pos_bias.relative_position_bias_table":
                 "encoder.relative_position_bias.relative_position_bias_table"}  # fmt: skip
    out = {}
    for key, value in state.items():
        if key in outer:
            out[prefix + outer[key]] = value
        elif key.startswith("blocks."):
            _, layer, rest = key.split(".", 2)
            stem = f"{prefix}encoder.layer.{layer}."
            attention = stem + "attention.attention."
            if rest == "attn.qkv.weight":
                parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
                out |= {f"{attention}{name}.weight": part.clone() for name, part in parts}
            elif rest in ("attn.q_bias", "attn.v_bias"):
                out[attention + ("query.bias" if "q_" in rest else "value.bias")] = value
            elif rest == "attn.relative_position_bias_table":
                out[f"{attention}relative_position_bias.relative_position_bias_table"] = value
            else:
                old = next(name for name in inner if rest.startswith(name))
                out[stem + inner[old] + rest[len(old) :]] = value
        elif key.startswith("head."):
            out[key.replace("head", "classifier")] = value
    return out


@pytest.mark.parametrize("architecture", FIVE)
@pytest.mark.parametrize("form", ["published", "hub", "prefixed"])
@pytest.mark.parametrize("shared_table", [True, False])
def test_beit(architecture: str, form: str, shared_table: bool) -> None:
    """Every block weight reaches every expert, under each naming, with the table of each layer in its columns."""
    published = beit(shared_table, final_norm="norm" if shared_table else "fc_norm")
    source = {"hub": as_transformers(published), "published": published,
              "prefixed": {f"transformer.{key}": value for key, value in published.items()}}[form]  # fmt: skip
    model = VLModel(micro(architecture, heads=("itm",)))
    report = load_weights(model, source)
    check_accounted(report, model, source)
    state = model.state_dict()
    for layer in range(LAYERS):
        for ours in ("attn.qkv.weight", "attn.q_bias", "attn.v_bias", "attn.proj.bias", "mlp.fc2.weight",
                     "norm2.bias", "gamma_1"):  # fmt: skip
            module, _, leaf = ours.partition(".")
            names = [f"{module}.{expert}.{leaf}" for expert in model.config.experts(layer)]
            keys = [key for name in [ours, *names] if (key := f"transformer.blocks.{layer}.{name}") in state]
            assert keys
            for key in keys:
                assert torch.equal(state[key], published[f"blocks.{layer}.{ours}"]), key
        table = state["relative_position_bias_table"]
        expected = published["rel_pos_bias.relative_position_bias_table" if shared_table
                             else f"blocks.{layer}.attn.relative_position_bias_table"]  # fmt: skip
        assert torch.equal(table[:12, layer * HEADS : (layer + 1) * HEADS], expected)
    assert not state["relative_position_bias_table"][12:].any()
    norm = "norm" if shared_table else "fc_norm"
    assert torch.equal(state["transformer.norm.weight"], published[f"{norm}.weight"])
    assert {key.rsplit(".", 1)[0] for key in report.fresh} == {
        "text_embeddings.word_embeddings", "text_embeddings.token_type_embeddings", "text_embeddings.LayerNorm",
        "token_type_embeddings", "pooler.dense", "itm_score.fc",
    }  # fmt: skip
    unused = {key for key in source if key.endswith(("mask_token", "head.weight", "head.bias", "classifier.weight",
                                                     "classifier.bias", "relative_position_index"))}  # fmt: skip
    assert set(report.unused) == unused


def test_beit_into_vision_alone_leaves_the_others() -> None:
    model = VLModel(micro(heads=()))
    before = model.state_dict()["transformer.blocks.0.attn.l.qkv.weight"].clone()
    report = load_weights(model, beit(), into=("v",))
    assert torch.equal(model.state_dict()["transformer.blocks.0.attn.l.qkv.weight"], before)
    assert report.loaded["transformer.blocks.0.attn.v.qkv.weight"] == "blocks.0.attn.qkv.weight"
    assert "transformer.blocks.2.mlp.vl.fc1.bias" in report.fresh


def test_beit_of_another_image_size_is_resized() -> None:
    source = beit(grid=4)
    model = VLModel(micro("agnostic", heads=()))
    report = load_weights(model, source)
    table = source["rel_pos_bias.relative_position_bias_table"].repeat(1, LAYERS)
    found = model.relative_position_bias_table
    assert found is not None
    assert torch.equal(found[:9], positions.resize_patch_rows(table[:-3], 4, 2))
    assert torch.equal(found[9:12], table[-3:])
    said = "4×4 patches to 2×2, rows with text at their start values"
    assert report.resized == {"relative_position_bias_table": said}


@torch.no_grad()
def test_a_full_qkv_bias_gives_the_same_attention() -> None:
    """A ViT's key bias cancels in the softmax; its positions are used where the model has absolute ones."""
    source = beit()
    del source["rel_pos_bias.relative_position_bias_table"]
    draw = torch.Generator().manual_seed(9)
    source["pos_embed"] = torch.randn(1, 5, WIDTH, generator=draw)
    biases = {}
    for layer in range(LAYERS):
        biases[layer] = torch.randn(3 * WIDTH, generator=draw)
        for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias"):
            del source[f"blocks.{layer}.{name}"]
        source[f"blocks.{layer}.attn.qkv.bias"] = biases[layer]
    model = VLModel(micro("agnostic", positions="absolute", layer_scale=1.0, heads=())).eval()
    report = load_weights(model, source)
    assert "transformer.blocks.0.gamma_1" in report.fresh
    attention = model.transformer.blocks[1].attn
    x = torch.randn(2, 5, WIDTH, generator=draw)
    qkv = x @ source["blocks.1.attn.qkv.weight"].T + biases[1]
    q, k, v = qkv.view(2, 5, 3, HEADS, 8).permute(2, 0, 3, 1, 4)
    y = ((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, WIDTH)
    y = y @ source["blocks.1.attn.proj.weight"].T + source["blocks.1.attn.proj.bias"]
    torch.testing.assert_close(attention(x), y, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.transformer.pos_embed, source["pos_embed"])


def test_a_broken_beit_is_refused() -> None:
    source = as_transformers(beit())
    del source["beit.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"no key weight beside beit.encoder.layer.1.attention.attention.query"):
        load_weights(VLModel(micro()), source)
    tables = beit(shared_table=False)
    del tables["blocks.2.attn.relative_position_bias_table"]
    with pytest.raises(CheckpointError, match=r"there is no transformer\.blocks\.2\.attn\.relative_position"):
        load_weights(VLModel(micro()), tables)
    no_norm = beit()
    del no_norm["blocks.1.norm1.weight"]
    with pytest.raises(PlanError, match=r"transformer.blocks.1.norm1.v.weight: the source has none"):
        load_weights(VLModel(micro()), no_norm)


# --- files ----------------------------------------------------------------------------------------------------


def test_files_of_every_kind(tmp_path: Path) -> None:
    source = beit()
    torch.save({"model": source, "epoch": 3}, tmp_path / "beit.pth")
    save_file(source, tmp_path / "beit.safetensors")
    states = []
    for name in ("beit.pth", "beit.safetensors"):
        torch.manual_seed(0)
        model = VLModel(micro())
        report = load_weights(model, tmp_path / name)
        assert report.source == str(tmp_path / name)
        assert report.form == "beit"
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_summary_names_everything() -> None:
    model = VLModel(micro(heads=("itm",), image_px=16))
    said = load_weights(model, build(micro(heads=("mlm",))).state_dict()).summary()
    assert said.splitlines()[0].startswith("the given tensors: ")
    assert "1 resized, 4 left at their start values, 6 not used" in said
    assert "mlm_score.bias" in said
    assert "itm_score.fc.weight" in said


def test_a_plan_changes_nothing() -> None:
    model = VLModel(micro())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan(model, build(micro()).state_dict(), "here")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- the configuration from shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*FIVE, "custom-attn-ln", "custom-ffn-ln"])
@pytest.mark.parametrize("positions_kind", ["relative", "absolute"])
def test_shapes_tell_the_configuration(architecture: str, positions_kind: str) -> None:
    heads = ("itc", "itm", "mlm", "vqa", "nlvr2", "classification", "segmentation")
    config = micro(architecture, positions=positions_kind, heads=heads, text_bias_tokens=196)
    shapes = {key: tuple(value.shape) for key, value in VLModel(config).state_dict().items()}
    known = {"num_heads": 2} if positions_kind == "absolute" else {"max_text_tokens": 6}
    if architecture == "agnostic":
        with pytest.raises(CheckpointError, match="the weights do not tell fusion_layer"):
            infer_config(shapes, **known)
        known["fusion_layer"] = 2
    assert infer_config(shapes, **known) == config


def test_shapes_of_something_else() -> None:
    with pytest.raises(CheckpointError, match=r"not the weights of a vision-language model: no transformer.patch"):
        infer_config({"a": (1,)}, "there")


@torch.no_grad()
def test_inferred_models_compute_the_same(goldens: Path) -> None:
    model = VLModel.from_pretrained(goldens / "merge" / "seed.safetensors")
    assert model.config == ModelConfig(
        image_px=4, patch_px=2, width=16, num_heads=2, ffn_width=32, vocab_size=16, max_text_tokens=6,
        text_bias_tokens=8, own_attention=False, own_ffn=False, own_norms=False, heads=("itc", "itm", "mlm"),
    )  # fmt: skip
