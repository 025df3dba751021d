from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import ARCHITECTURES, HEADS, PRESETS, ModelConfig, grid_of, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_form_comes_back_equal(name: str, architecture: str) -> None:
    config = preset(name, architecture=architecture, heads=["vqa", "itm"])
    assert config.architecture == architecture
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_are_the_published_sizes() -> None:
    sizes = {name: preset(name) for name in ("tiny", "base", "large")}
    assert [(c.width, c.num_heads, c.ffn_width, c.num_layers, c.fusion_layer) for c in sizes.values()] == [
        (192, 3, 768, 12, 10), (768, 12, 3072, 12, 10), (1024, 16, 4096, 24, 21),
    ]  # fmt: skip


def test_experts_of_layers() -> None:
    config = preset("base")
    assert [config.experts(layer) for layer in (0, 9, 10, 11)] == [("v", "l")] * 2 + [("v", "l", "vl")] * 2


def test_heads_have_one_order_and_no_doubles() -> None:
    assert ModelConfig(heads=("vqa", "itc", "vqa")).heads == ("itc", "vqa")
    assert ModelConfig(heads=HEADS).num_token_types == 3
    assert ModelConfig().num_token_types == 2


def test_owning_both_halves_owns_their_norms() -> None:
    assert ModelConfig(own_norms=False) == ModelConfig()
    assert ModelConfig(own_norms=False).architecture == "specific"


def test_merged_is_agnostic_and_otherwise_the_same() -> None:
    config = preset("micro", heads=("vqa",), image_px=16)
    assert config.merged() == replace(config, own_attention=False, own_ffn=False, own_norms=False)


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        ModelConfig().width = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widht": 3}, "did you mean 'width'?"),
        ({"architecture": "specifc"}, "did you mean 'specific'?"),
        ({"width": 770}, "width 770 is no multiple of num_heads 12"),
        ({"image_px": 225}, "image_px 225 is no multiple of patch_px 16"),
        ({"fusion_layer": 12}, "fusion_layer 12 is not among the 12 layers"),
        ({"fusion_layer": -1}, "fusion_layer -1 is not among the 12 layers"),
        ({"vocab_size": 0}, "vocab_size is 0, below 1"),
        ({"width": "wide"}, "width must be a whole number, not 'wide'"),
        ({"num_layers": True}, "num_layers must be a whole number, not True"),
        ({"own_ffn": 1}, "own_ffn must be true or false, not 1"),
        ({"drop_path": 1.0}, "drop_path 1.0 is not in [0, 1)"),
        ({"positions": "relativ"}, "did you mean 'relative'?"),
        ({"heads": "vqa"}, "heads must be a list of names, not 'vqa'"),
        ({"heads": ["vqaa"]}, "did you mean 'vqa'?"),
        ({"heads": None}, "heads must be a list of names, not None"),
        ({"max_text_tokens": 200}, "max_text_tokens 200 exceeds text_bias_tokens 196"),
        ({"max_text_tokens": 1}, "max_text_tokens is below 2"),
        ({"joint_below_fusion": True}, "joint_below_fusion needs attention that the experts share"),
    ],
)
def test_what_fits_no_model_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        ModelConfig().change(**changes)
    assert said in str(raised.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(UsageError, match="width 770") as raised:
        ModelConfig(width=770, image_px=225, dropout=-1)
    assert "image_px 225" in str(raised.value)
    assert "dropout -1.0" in str(raised.value)


def test_stored_form_with_unknown_or_foreign_content_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        ModelConfig.from_dict({"num_layer": 3}, "config.json")
    assert "did you mean 'num_layers'?" in str(raised.value)
    assert "in config.json" in str(raised.value)
    with pytest.raises(UsageError, match="the configuration is of a 'beit' model"):
        ModelConfig.from_dict({"model_type": "beit"})


def test_each_mistake_of_a_stored_form_has_a_line() -> None:
    with pytest.raises(UsageError) as raised:
        ModelConfig.from_dict({"width": "x", "num_heads": "y"}, "config.json")
    lines = str(raised.value).split("\n")
    assert [line.split()[0] for line in lines] == ["no", "width", "num_heads", "in"]


def test_unknown_preset() -> None:
    with pytest.raises(UsageError) as raised:
        preset("bas")
    assert "did you mean 'base'?" in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "others", "grid"),
    [(732, 3, 14), (1126, 397, 14), (3878, 397, 30), (733, 3, None), (3, 3, None), (7, 3, None)],
)
def test_grid_of_a_table(rows: int, others: int, grid: int | None) -> None:
    assert grid_of(rows, others) == grid


def test_a_configuration_needs_no_torch() -> None:
    code = "import sys, vlmerge_cli.model.config, vlmerge_cli.weights.inferred_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
