from __future__ import annotations

import random

import pytest

from tests.helpers import MODULES, tiny
from vlmerge_cli.errors import LayoutError
from vlmerge_cli.layouts.layout import built_in
from vlmerge_cli.layouts.survey import detect, find, survey


def vlmo(layers: int = 3, top: int = 2) -> list[str]:
    keys = ["transformer.cls_token", "text_embeddings.word_embeddings.weight"]
    for layer in range(layers):
        stem = f"transformer.blocks.{layer}."
        keys += [stem + name for name in ("gamma_1", "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.proj.bias")]
        for word in ("imag", "text", *(["vl"] if layer >= top else [])):
            keys += [f"{stem}mlp_{word}.{part}" for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")]
            keys += [f"{stem}norm2_{word}.{part}" for part in ("weight", "bias")]
    return keys


@pytest.mark.parametrize("architecture", MODULES)
def test_the_architectures(architecture: str) -> None:
    found, reason = detect(tiny(architecture), "x")
    assert found.layout.name == "vl-merging"
    assert found.architecture == architecture
    assert found.problems() == []
    assert found.layers == (0, 1, 2)
    assert "keys are slots of" in reason
    expected = ("v", "l") if architecture != "agnostic" else ()
    assert found.experts[0] == expected
    assert found.experts[2] == ((*expected, "vl") if expected else ())


def test_every_key_is_in_exactly_one_place() -> None:
    keys = [*tiny(), "transformer.blocks.0.odd"]
    random.Random(0).shuffle(keys)
    found = survey(built_in("vl-merging"), keys)
    placed = [key for sources in found.groups.values() for key in sources.values()]
    placed += [*found.single.values(), *found.shared, *found.outside, *found.unknown]
    assert sorted(placed) == sorted(keys)
    assert all(list(sources) in (["v", "l"], ["v", "l", "vl"]) for sources in found.groups.values())


def test_vlmo_is_told_apart() -> None:
    found, _ = detect(vlmo(), "x")
    assert found.layout.name == "vlmo"
    assert found.architecture == "custom-ffn"
    assert found.problems() == []
    assert found.experts == {0: ("v", "l"), 1: ("v", "l"), 2: ("v", "l", "vl")}


def test_an_unnamed_set_of_modules() -> None:
    keys = [key for key in tiny() if ".norm1.v." not in key and ".norm1.l." not in key and ".norm1.vl." not in key]
    assert detect(keys, "x")[0].architecture == "custom (attn, mlp, norm2)"


def test_modules_that_are_per_expert_in_some_layers_only() -> None:
    keys = [key for key in tiny() if not key.startswith("transformer.blocks.1.mlp.")]
    keys += [key for key in tiny("agnostic") if key.startswith("transformer.blocks.1.mlp.")]
    found = survey(built_in("vl-merging"), keys)
    assert found.problems() == []
    assert found.architecture == "specific"
    missing = [key for key in keys if not key.startswith("transformer.blocks.1.mlp.fc2.")]
    problems = survey(built_in("vl-merging"), missing).problems()
    assert problems == [f"layer 1 mlp.fc2.{leaf} is missing for every expert" for leaf in ("bias", "weight")]


def test_a_layout_that_fits_nothing() -> None:
    with pytest.raises(LayoutError, match="none of the layouts vl-merging, vlmo, .* knows its keys"):
        detect(["a", "b"], "x")
    with pytest.raises(LayoutError, match="no key fits layout vlmo"):
        find(["a"], built_in("vlmo"), "x")


def test_a_layout_that_is_asked_for_is_taken() -> None:
    found, reason = find(vlmo(), built_in("vlmo"), "x")
    assert found.layout.name == "vlmo"
    assert reason == "layout vlmo as asked"
