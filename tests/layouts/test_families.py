"""Tiny random checkpoints in the names of public families: told apart, planned, merged, compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import fails, ok
from vlmerge_cli.errors import LayoutError
from vlmerge_cli.layouts.survey import detect

D, F = 8, 12

#: Family: keys of each expert for some slots with their shape, and keys that stay as they are; ``*`` is the layer.
FAMILIES: dict[str, tuple[dict[tuple[str, ...], tuple[int, ...]], tuple[str, ...]]] = {
    "beit3": (
        {
            ("beit3.encoder.layers.*.self_attn.k_proj.A.weight", "beit3.encoder.layers.*.self_attn.k_proj.B.weight"): (
                D,
                D,
            ),
            ("beit3.encoder.layers.*.ffn.A.fc1.bias", "beit3.encoder.layers.*.ffn.B.fc1.bias"): (F,),
            (
                "beit3.encoder.layers.*.ffn.A.ffn_layernorm.weight",
                "beit3.encoder.layers.*.ffn.B.ffn_layernorm.weight",
            ): (F,),
        },
        ("beit3.encoder.layer_norm.A.weight", "beit3.text_embed.weight"),
    ),
    "flava": (
        {
            (
                "image_model.encoder.layer.*.attention.attention.query.weight",
                "text_model.encoder.layer.*.attention.attention.query.weight",
            ): (D, D),
            ("image_model.encoder.layer.*.layernorm_after.bias", "text_model.encoder.layer.*.layernorm_after.bias"): (
                D,
            ),
        },
        ("multimodal_model.encoder.layer.0.output.dense.weight", "image_model.pooler.dense.weight"),
    ),
    "siglip": (
        {
            (
                "vision_model.encoder.layers.*.self_attn.out_proj.weight",
                "text_model.encoder.layers.*.self_attn.out_proj.weight",
            ): (D, D),
            ("vision_model.encoder.layers.*.mlp.fc2.weight", "text_model.encoder.layers.*.mlp.fc2.weight"): (D, F),
        },
        ("logit_scale", "vision_model.post_layernorm.weight", "text_model.final_layer_norm.weight"),
    ),
    "cogvlm": (
        {
            (
                "model.layers.*.self_attn.vision_expert_query_key_value.weight",
                "model.layers.*.self_attn.language_expert_query_key_value.weight",
            ): (3 * D, D),
            ("model.layers.*.mlp.vision_mlp.up_proj.weight", "model.layers.*.mlp.language_mlp.up_proj.weight"): (F, D),
        },
        (
            "model.layers.0.self_attn.vision_expert_query_key_value.bias",
            "model.layers.1.input_layernorm.weight",
            "model.vision.transformer.layers.0.mlp.fc1.weight",
        ),
    ),
    "bagel": (
        {
            (
                "language_model.model.layers.*.self_attn.q_proj_moe_gen.bias",
                "language_model.model.layers.*.self_attn.q_proj.bias",
            ): (D,),
            (
                "language_model.model.layers.*.mlp_moe_gen.down_proj.weight",
                "language_model.model.layers.*.mlp.down_proj.weight",
            ): (D, F),
        },
        ("language_model.model.norm_moe_gen.weight", "vit_model.vision_model.encoder.layers.0.mlp.fc1.weight"),
    ),
    "evev2": (
        {
            ("model.layers.*.self_attn.moe_v_proj.weight", "model.layers.*.self_attn.v_proj.weight"): (D, D),
            ("model.layers.*.moe_mlp.gate_proj.weight", "model.layers.*.mlp.gate_proj.weight"): (F, D),
            ("model.layers.*.moe_input_layernorm.weight", "model.layers.*.input_layernorm.weight"): (D,),
        },
        ("model.norm.weight", "lm_head.weight"),
    ),
    "mono-internvl": (
        {
            (
                "language_model.model.layers.*.feed_forward_ve.w2.weight",
                "language_model.model.layers.*.feed_forward.w2.weight",
            ): (D, F),
        },
        ("language_model.model.layers.0.attention.wqkv.weight", "language_model.model.tok_embeddings.weight"),
    ),
    "one-peace": (
        {
            tuple(f"encoder_wrapper.fusion_model.layers.*.{m}_ffn.0.wi_1.weight" for m in ("image", "text", "audio")): (
                F,
                D,
            ),
            tuple(f"encoder_wrapper.fusion_model.layers.*.{m}_ffn.3.bias" for m in ("image", "text", "audio")): (D,),
        },
        ("encoder_wrapper.fusion_model.layers.0.gamma_1", "encoder_wrapper.fusion_model.text_layer_norm.weight"),
    ),
    "flux": (
        {
            ("transformer_blocks.*.attn.to_q.weight", "transformer_blocks.*.attn.add_q_proj.weight"): (D, D),
            ("transformer_blocks.*.attn.to_out.0.bias", "transformer_blocks.*.attn.to_add_out.bias"): (D,),
            ("transformer_blocks.*.ff.net.0.proj.weight", "transformer_blocks.*.ff_context.net.0.proj.weight"): (F, D),
            ("transformer_blocks.*.norm1.linear.weight", "transformer_blocks.*.norm1_context.linear.weight"): (
                6 * D,
                D,
            ),
        },
        ("single_transformer_blocks.0.attn.to_q.weight", "context_embedder.weight"),
    ),
    "qwen-image": (
        {
            ("transformer_blocks.*.attn.norm_k.weight", "transformer_blocks.*.attn.norm_added_k.weight"): (4,),
            ("transformer_blocks.*.img_mlp.net.2.weight", "transformer_blocks.*.txt_mlp.net.2.weight"): (D, F),
            ("transformer_blocks.*.img_mod.1.bias", "transformer_blocks.*.txt_mod.1.bias"): (6 * D,),
        },
        ("img_in.weight", "txt_in.weight"),
    ),
    "cosmos3": (
        {
            ("layers.*.self_attn.add_k_proj.weight", "layers.*.self_attn.to_k.weight"): (4, D),
            ("layers.*.self_attn.to_add_out.weight", "layers.*.self_attn.to_out.weight"): (D, D),
            ("layers.*.input_layernorm_moe_gen.weight", "layers.*.input_layernorm.weight"): (D,),
        },
        ("norm.weight", "norm_moe_gen.weight", "layers.1.self_attn.k_norm_und_for_gen.weight"),
    ),
    "higgs-audio": (
        {
            ("model.layers.*.audio_mlp.up_proj.weight", "model.layers.*.mlp.up_proj.weight"): (F, D),
            ("model.layers.*.audio_input_layernorm.weight", "model.layers.*.input_layernorm.weight"): (D,),
        },
        ("model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "audio_lm_head.weight"),
    ),
    "mplug-owl2": (
        {
            (
                "model.layers.*.self_attn.k_proj.multiway.1.weight",
                "model.layers.*.self_attn.k_proj.multiway.0.weight",
            ): (D, D),
            ("model.layers.*.input_layernorm.multiway.1.weight", "model.layers.*.input_layernorm.multiway.0.weight"): (
                D,
            ),
        },
        ("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"),
    ),
}


def checkpoint(family: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    slots, rest = FAMILIES[family]
    shapes = {key.replace("*", str(n)): shape for its, shape in slots.items() for key in its for n in range(2)}
    shapes |= dict.fromkeys(rest, (D,))
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_the_family(family: str, tmp_path: Path) -> None:
    slots, rest = FAMILIES[family]
    before = checkpoint(family)
    source, output = tmp_path / "ckpt.safetensors", tmp_path / "out.safetensors"
    save_file(before, source)
    survey, _ = detect(before, str(source))
    assert survey.layout.name == family
    assert survey.problems() == []
    assert len(survey.groups) == 2 * len(slots)
    for command in ("inspect", "distance"):
        ok(command, str(source))
    ok("merge", str(source), "--dry-run")
    ok("merge", str(source), "--method", "interpolation", "-o", str(output))
    after = load_file(output)
    assert len(after) == len(rest) + 2 * len(slots)
    for key in rest:
        np.testing.assert_array_equal(after[key], before[key])
    for keys in slots:
        for layer in range(2):
            experts = [before[key.replace("*", str(layer))].astype(np.float64) for key in keys]
            place = survey.layout.place(keys[0].replace("*", str(layer)))
            assert place is not None
            merged = after[survey.layout.merged_key(place.slot)]
            np.testing.assert_allclose(merged, sum(experts) / len(experts), rtol=1e-6, atol=1e-7)
    again, _ = detect(after, str(output))
    assert (again.layout.name, len(again.groups), again.problems()) == (family, 0, [])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_ordinary_transformer_is_no_expert(prefix: str) -> None:
    """A language model alone has the plain names of EVEv2's text expert, and no expert."""
    names = ["input_layernorm", "post_attention_layernorm"]
    names += [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    with pytest.raises(LayoutError, match="none of the layouts"):
        detect([f"{prefix}model.layers.0.{name}.weight" for name in names], "llm.safetensors")


def test_towers_of_different_width_say_so(tmp_path: Path) -> None:
    key = "{}.encoder.layers.0.mlp.fc1.weight"
    towers = {
        key.format("vision_model"): np.zeros((32, 8), np.float32),
        key.format("text_model"): np.zeros((16, 4), np.float32),
    }
    save_file(towers, tmp_path / "clip.safetensors")
    message = fails(1, "merge", str(tmp_path / "clip.safetensors"))
    assert "(32, 8)" in message
    assert "(16, 4)" in message


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        ("flava", "flava."),
        ("vlmo", "module."),
        ("siglip", "module._orig_mod."),
        ("vlmo", "_orig_mod.module."),
        ("vlmo", "module._orig_mod.module._orig_mod.model."),
        ("flava", "_orig_mod._orig_mod."),
        ("vlmo", "state_dict.module."),
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_a_wrapper_around_the_keys_is_kept(family: str, prefix: str, asked: bool, tmp_path: Path) -> None:
    plain = (
        checkpoint(family)
        if family in FAMILIES
        else {
            f"transformer.blocks.{n}.mlp_{word}.fc1.weight": np.full((F, D), n + len(word), np.float32)
            for word in ("imag", "text")
            for n in range(2)
        }
    )
    chosen = ["--layout", family] if asked else []
    results = []
    for name, tensors in (("plain", plain), ("wrapped", {prefix + key: value for key, value in plain.items()})):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        output = tmp_path / f"{name}.merged.safetensors"
        ok("merge", str(tmp_path / f"{name}.safetensors"), "--method", "interpolation", "-o", str(output), *chosen)
        results.append(load_file(output))
    assert set(results[1]) == {prefix + key for key in results[0]}
    for key, value in results[0].items():
        np.testing.assert_array_equal(results[1][prefix + key], value)
