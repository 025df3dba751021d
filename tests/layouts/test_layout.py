from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import expert_key, experts_of, merged_key, ok, save, slot_shapes, tiny
from vlmerge_cli.errors import LayoutError, UsageError
from vlmerge_cli.layouts import LAYOUTS
from vlmerge_cli.layouts.layout import Slot, built_in, from_mapping, named

MINE: dict[str, Any] = {
    "name": "mine",
    "experts": {"v": "img", "l": "txt"},
    "blocks": "{expert}.h.{layer}.",
    "into": "joint.h.{layer}.",
    "slots": {
        "q.weight": {"from": "q.weight", "kind": "linear", "gram": "in"},
        "k.weight": {"from": "k.weight", "kind": "linear", "same_input_as": "q.weight"},
        "q.bias": {"from": "q.bias", "kind": "bias"},
    },
}


def changed(**change: Any) -> dict[str, Any]:
    return {key: value for key, value in (MINE | change).items() if value is not None}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_key_of_a_built_in_layout_finds_its_place(name: str) -> None:
    layout = built_in(name)
    assert layout.name == name
    for layer in (0, 7, 40):
        for rule in layout.rules:
            slot = Slot(layer, rule.name, rule.kind)
            assert layout.place(layout.merged_key(slot)) == (slot, None)
            for expert in layout.experts:
                assert layout.place(layout.source_key(slot, expert)) == (slot, expert)
            if rule.kind == "linear":
                first = next(iter(layout.experts))
                packed, published = layout.gram_keys(slot, first)
                serving = Slot(layer, rule.same_input_as or rule.name, rule.kind)
                assert packed == layout.source_key(serving, first)
                assert published


def test_the_published_names() -> None:
    layout = built_in("vl-merging")
    for layer in range(3):
        for name in slot_shapes(1, 1):
            for expert in experts_of(layer, 2):
                slot, found = layout.place(expert_key(layer, name, expert)) or (None, None)
                assert slot is not None
                assert (slot.layer, slot.name, found) == (layer, name, expert)
    assert layout.gram_keys(Slot(3, "attn.qkv.weight", "linear"), "vl")[1] == "transformer.blocks.3.attn.vl"
    assert layout.is_shared("transformer.blocks.3.gamma_1")


@pytest.mark.parametrize(
    "key",
    [
        "transformer.norm.weight",
        "transformer.blocks.x.mlp.v.fc1.weight",
        "blocks.0.mlp.v.fc1.weight",
        "",
        "0",
        "transformer.blocks.0",
    ],
)
def test_keys_outside_the_blocks(key: str) -> None:
    layout = built_in("vl-merging")
    assert layout.place(key) is None
    assert not layout.in_block(key) or key == "transformer.blocks.0"


@pytest.mark.parametrize("layer", ["00", "03", "٣", "-1", "1e3"])
def test_a_layer_is_written_as_one_writes_it(layer: str) -> None:
    assert built_in("vl-merging").place(f"transformer.blocks.{layer}.mlp.v.fc1.weight") is None


def test_experts_in_transformers_of_their_own() -> None:
    layout = from_mapping(MINE)
    slot = Slot(2, "k.weight", "linear")
    assert layout.source_key(slot, "l") == "txt.h.2.k.weight"
    assert layout.merged_key(slot) == "joint.h.2.k.weight"
    assert layout.gram_keys(slot, "v") == ("img.h.2.q.weight", "img.h.2.in")
    assert layout.in_block("img.h.2.other")
    assert not layout.in_block("img.other")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "expected a map, found NoneType"),
        ([], "expected a map, found list"),
        (changed(name=None), "field 'name' is missing"),
        (changed(slot={}), "unknown field 'slot': did you mean 'slots'?"),
        (changed(experts=["v", "l"]), "experts: expected a map"),
        (changed(experts={"v": 1, "l": 2}), "experts: expected a map"),
        (changed(experts={"v": "img"}), "at least two"),
        (changed(top=["l"]), "at least two"),
        (changed(top=["vll"]), "top: unknown expert 'vll'"),
        (changed(top="vl"), "top: expected a list"),
        (changed(top=5), "top: expected a list"),
        (changed(shared=5), "shared: expected a list"),
        (changed(shared="gamma"), "shared: expected a list"),
        (changed(blocks="{expert}.h."), "one {layer}"),
        (changed(blocks=5), "blocks: expected a text"),
        (changed(blocks="{expert}.{foo}.{layer}."), "may hold only"),
        (changed(into=None), "into"),
        (changed(slots={}), "slots"),
        (changed(slots=[]), "slots"),
        (changed(slots={"a": 5}), "slots.a: expected a map"),
        (changed(slots={"a": {"from": "a"}}), "slots.a: field 'kind' is missing"),
        (changed(slots={"a": {"from": "a", "kind": "liner"}}), "did you mean 'linear'?"),
        (changed(slots={"a": {"from": "a", "kind": ["linear"]}}), "slots.a.kind: unknown kind"),
        (changed(slots={"a": {"from": "{layer}", "kind": "bias"}}), "slots.a.from"),
        (changed(slots={"{a}": {"from": "a", "kind": "bias"}}), "no placeholders"),
        (changed(slots={"a": {"from": "a", "kind": "bias", "gramm": "x"}}), "did you mean 'gram'?"),
        (changed(slots={"a": {"from": "a", "kind": "bias", "same_input_as": "b"}}), "unknown slot 'b'"),
        (
            changed(slots={"a": {"from": "x", "kind": "bias"}, "b": {"from": "x", "kind": "bias"}}),
            "two slots are read from",
        ),
        (changed(blocks="h.{layer}.", into=None), "needs {expert}"),
        (changed(slots={"a": {"from": {"v": "a", "w": "b"}, "kind": "bias"}}), "slots.a.from: unknown expert 'w'"),
        (changed(slots={"a": {"from": {"v": "a"}, "kind": "bias"}}), "slots.a.from: expert 'l' is missing"),
        (changed(slots={"a": {"from": {"v": "a", "l": 3}, "kind": "bias"}}), "slots.a.from.l: expected a text"),
        (changed(architectures=["a"]), "architectures: expected a map"),
        (changed(architectures={"a": 5}), "architectures.a: expected a list"),
        (changed(architectures={"a": ["qq"]}), "architectures.a: unknown module 'qq'"),
    ],
)
def test_a_wrong_layout_file_says_what_is_wrong(document: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(LayoutError) as caught:
        named(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "{", "a: !!python/object:os.system x", "\x00"])
def test_what_is_not_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(LayoutError, match="not valid YAML"):
        named(str(tmp_path / "my.yaml"))


def test_names() -> None:
    with pytest.raises(UsageError, match="did you mean 'vlmo'"):
        named("vlm")
    with pytest.raises(LayoutError, match="cannot read layout file"):
        named("nowhere.yaml")


def test_a_layout_of_ones_own_merges(tmp_path: Path) -> None:
    """The published keys, renamed, merge to the same numbers under the user's own file."""
    import numpy as np

    from tests.helpers import load

    rng = np.random.default_rng(0)
    shapes = {"q.weight": (4, 3), "k.weight": (4, 3), "q.bias": (4,)}
    tensors = {
        f"{word}.h.{layer}.{name}": rng.standard_normal(shape)
        for word in ("img", "txt")
        for layer in range(2)
        for name, shape in shapes.items()
    }
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(MINE))
    x = rng.standard_normal((20, 3))
    save(
        tmp_path / "c.grams.safetensors",
        {f"{word}.h.{layer}.in": x.T @ x for word in ("img", "txt") for layer in range(2)},
    )
    source = save(tmp_path / "c.safetensors", {**tensors, "other": np.ones(2)})
    for method in ("interpolation", "regmean"):  # with equal Grams both are the mean
        ok("merge", source, "--layout", path, "-m", method, "--force")
        merged = load(tmp_path / "c.merged.safetensors")
        assert set(merged) == {f"joint.h.{layer}.{name}" for layer in range(2) for name in shapes} | {"other"}
        for layer in range(2):
            for name in shapes:
                mean = (tensors[f"img.h.{layer}.{name}"] + tensors[f"txt.h.{layer}.{name}"]) / 2
                np.testing.assert_allclose(merged[f"joint.h.{layer}.{name}"], mean, atol=1e-12)


def test_merged_keys_of_the_helpers_are_the_layouts() -> None:
    layout = built_in("vl-merging")
    assert {layout.merged_key(Slot(1, name, "x")) for name in slot_shapes(1, 1)} == {
        merged_key(1, name) for name in slot_shapes(1, 1)
    }
    assert set(tiny("agnostic")) >= {merged_key(1, name) for name in slot_shapes(1, 1)}
