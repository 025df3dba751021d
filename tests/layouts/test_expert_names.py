"""Experts under any names and of any number: nothing knows the paper's v, l and vl but its own layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import fails, load, ok, save

LAYOUT = """
name: mine
experts: {{{experts}}}
{top}
blocks: blocks.{{layer}}.
slots:
  fc.weight: {{from: "fc.{{expert}}.weight", kind: linear}}
  fc.bias: {{from: "fc.{{expert}}.bias", kind: bias}}
"""


def made(tmp_path: Path, names: tuple[str, ...], top: str = "", layers: int = 2) -> tuple[Path, Path, dict]:
    """A checkpoint of experts called ``names``, ``top`` in the last layer alone, and its layout."""
    rng = np.random.default_rng(0)
    tensors = {
        f"blocks.{layer}.fc.{name}.{what}": rng.standard_normal(shape).astype(np.float32)
        for layer in range(layers)
        for name in (*names, *([top] if top and layer == layers - 1 else []))
        for what, shape in (("weight", (4, 3)), ("bias", (4,)))
    }
    experts = ", ".join(f"{name}: {name}" for name in (*names, *([top] if top else [])))
    layout = tmp_path / "mine.yaml"
    layout.write_text(LAYOUT.format(experts=experts, top=f"top: [{top}]" if top else ""))
    return save(tmp_path / "ckpt.safetensors", tensors), layout, tensors


def merged(ckpt: Path, layout: Path, *words: object) -> dict:
    out = ckpt.with_name("out.safetensors")
    ok("merge", ckpt, "--layout", layout, "-o", out, "--force", *words)
    return load(out)


def experts_of(tensors: dict, key: str) -> dict:
    head, _, what = key.rpartition(".")
    return {
        name.split(".")[3]: value
        for name, value in tensors.items()
        if name.startswith(f"{head}.") and name.endswith(what)
    }


@pytest.mark.parametrize("alpha", [0, 0.25, 1])
def test_alpha_is_the_share_of_the_first_expert_whatever_it_is_called(alpha: float, tmp_path: Path) -> None:
    ckpt, layout, tensors = made(tmp_path, ("image", "text"), top="both")
    for key, value in merged(ckpt, layout, "--alpha", alpha).items():
        its = experts_of(tensors, key)
        expected = alpha * its["image"] + (1 - alpha) * its["text"]
        if "both" in its:
            expected = expected * 2 / 3 + its["both"] / 3
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7, err_msg=key)


def test_three_experts_of_one_rank_all_count(tmp_path: Path) -> None:
    ckpt, layout, tensors = made(tmp_path, ("v", "l", "a"))
    for key, value in merged(ckpt, layout).items():
        np.testing.assert_allclose(value, sum(experts_of(tensors, key).values()) / 3, rtol=1e-6, atol=1e-7)
    weights = {"v": 0.5, "l": 0.3, "a": 0.2}
    for key, value in merged(ckpt, layout, "--weights", "v=5,l=3,a=2").items():
        expected = sum(weights[name] * weight for name, weight in experts_of(tensors, key).items())
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


def test_alpha_between_three_is_refused_with_the_way_out(tmp_path: Path) -> None:
    ckpt, layout, _ = made(tmp_path, ("v", "l", "a"))
    said = fails(1, "merge", ckpt, "--layout", layout, "--alpha", "0.75")
    assert "--alpha is a share between two experts, here are v, l, a: --weights v=0.333,l=0.333,a=0.333" in said
    assert not ckpt.with_name("ckpt.merged.safetensors").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("image=1", "--weights lacks text, both (0 leaves an expert out)"),
        ("image=1,test=1,both=0", "--weights names 'test': did you mean 'text'?"),
        ("image=0,text=0,both=1", "layer 0: every expert there has weight 0"),
    ],
)
def test_weights_that_do_not_fit_the_checkpoint(weights: str, said: str, tmp_path: Path) -> None:
    ckpt, layout, _ = made(tmp_path, ("image", "text"), top="both")
    assert said in fails(1, "merge", ckpt, "--layout", layout, "--weights", weights)


@pytest.mark.parametrize("weights", ["image", "image=-1,text=1", "image=nan,text=1", "image=0,text=0"])
def test_weights_that_are_none(weights: str, tmp_path: Path) -> None:
    ckpt, layout, _ = made(tmp_path, ("image", "text"))
    assert f"--weights {weights}" in fails(2, "merge", ckpt, "--layout", layout, "--weights", weights)
    said = fails(2, "merge", ckpt, "--layout", layout, "--weights", "image=1,text=1", "--alpha", "0.2")
    assert "--weights and --alpha both say" in said


@pytest.mark.parametrize(("words", "unused"), [(["--weights", "image=1,text=0"], "text"), (["--alpha", "0"], "image")])
def test_an_expert_without_weight_is_named(words: list[str], unused: str, tmp_path: Path) -> None:
    ckpt, layout, _ = made(tmp_path, ("image", "text"))
    out = tmp_path / "out.safetensors"
    said = ok("merge", ckpt, "--layout", layout, "-o", out, *words).out
    assert f"expert {unused} has weight 0: nothing of it is in the output" in said
    document = json.loads(ok("merge", ckpt, "--layout", layout, "-o", out, "--force", "--json", *words).out)
    assert document["unused"] == [unused]
    assert "weight 0" not in ok("merge", ckpt, "--layout", layout, "-o", out, "--force").out


@pytest.mark.parametrize(("task", "used"), [("retrieval", {"image", "text"}), ("vqa", {"both"}), ("nlvr2", {"both"})])
def test_experts_for_a_task_are_found_by_rank(task: str, used: set[str], tmp_path: Path) -> None:
    ckpt, layout, tensors = made(tmp_path, ("image", "text"), top="both")
    found = merged(ckpt, layout, "--experts-for", task)
    its = experts_of(tensors, "blocks.1.fc.weight")
    expected = sum(its[name] for name in used) / len(used)
    np.testing.assert_allclose(found["blocks.1.fc.weight"], expected, rtol=1e-6, atol=1e-7)


def test_distances_show_all_pairs(tmp_path: Path) -> None:
    ckpt, layout, tensors = made(tmp_path, ("v", "l", "a"))
    document = json.loads(ok("distance", ckpt, "--layout", layout, "--pair", "all", "--json").out)
    assert [row["pair"] for row in document["pairs"]] == [["v", "l"], ["v", "a"], ["l", "a"]]
    flat = {name: np.concatenate([v.ravel() for k, v in tensors.items() if f".{name}." in k]) for name in "vla"}
    for row in document["pairs"]:
        one, two = row["pair"]
        assert row["l2"] == pytest.approx(np.linalg.norm(flat[one].astype(float) - flat[two].astype(float)), rel=1e-9)
