from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import helpers
from tests.helpers import expert_key, experts_of, fails, load, merged_key, ok, save, slot_shapes, tiny, tiny_grams
from vlmerge_cli.errors import MergeError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods.linalg import pack
from vlmerge_cli.methods.method import Group
from vlmerge_cli.methods.regmean import RegMean

LINEAR = Slot(3, "mlp.fc1.weight", "linear")


def gram_of(grams: dict, layer: int, name: str, expert: str) -> np.ndarray:
    return grams[expert_key(layer, name, expert).removesuffix(".weight").removesuffix(".qkv")]


def expected(w: list[np.ndarray], grams: list[np.ndarray], gamma: float, ridge: float = 0.0) -> np.ndarray:
    """The paper's closed form, with an independent solver."""
    scaled = [gamma * g + (1 - gamma) * np.diag(np.diag(g)) for g in grams]
    n = len(scaled[0])
    rho = ridge * sum(np.trace(g) for g in scaled) / n / len(scaled)
    scaled = [g + rho * np.eye(n) for g in scaled]
    return np.linalg.solve(sum(scaled), sum(g @ one.T for one, g in zip(w, scaled, strict=True))).T


@pytest.mark.parametrize("gamma", [0, 0.5, 0.9, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_the_formula(gamma: float, packed: bool, ckpt, tmp_path) -> None:
    source = tiny()
    grams = tiny_grams(source)
    if packed:  # the tool's own form: triangles under the weights' keys, one for each reader of the input
        own = {
            expert_key(layer, name, e): pack(gram_of(grams, layer, name, e))
            for layer in range(3)
            for name, shape in slot_shapes(1, 1).items()
            if len(shape) == 2
            for e in experts_of(layer, 2)
        }
        save(tmp_path / "ckpt.grams.safetensors", own)
    out = tmp_path / "out.safetensors"
    ok("merge", ckpt, "-o", out, "-m", "regmean", "--gamma", gamma, "--dtype", "float64")
    merged = load(out)
    for layer in range(3):
        for name, shape in slot_shapes(1, 1).items():
            w = [source[expert_key(layer, name, e)].astype(np.float64) for e in experts_of(layer, 2)]
            if len(shape) == 2:
                g = [gram_of(grams, layer, name, e) for e in experts_of(layer, 2)]
                np.testing.assert_allclose(merged[merged_key(layer, name)], expected(w, g, gamma), rtol=0, atol=1e-12)
            else:
                np.testing.assert_allclose(merged[merged_key(layer, name)], np.mean(w, axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("experts", [("v", "l"), ("v", "l", "vl")])
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
@pytest.mark.parametrize("turned", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_ridge_adds_to_every_gram(experts, ridge, turned) -> None:
    rng = np.random.default_rng(0)
    w = {e: rng.standard_normal((4, 6)) for e in experts}
    x = {e: rng.standard_normal((9, 6)) for e in experts}
    grams = {e: x[e].T @ x[e] for e in experts}
    group = Group(LINEAR, {e: turned(a) for e, a in w.items()}, None, {e: turned(a) for e, a in grams.items()})
    merged = np.asarray(RegMean(gamma=0.8, ridge=ridge)(group))
    np.testing.assert_allclose(merged, expected(list(w.values()), list(grams.values()), 0.8, ridge), atol=1e-12)


def test_directions_without_data_get_the_average_under_a_ridge() -> None:
    rng = np.random.default_rng(0)
    w = {e: rng.standard_normal((4, 6)) for e in "vl"}
    x = {e: np.pad(rng.standard_normal((9, 4)), ((0, 0), (0, 2))) for e in "vl"}
    group = Group(LINEAR, w, None, {e: x[e].T @ x[e] for e in "vl"})
    merged = RegMean(gamma=0.9, ridge=1e-9)(group)
    np.testing.assert_allclose(merged[:, 4:], (w["v"] + w["l"])[:, 4:] / 2, atol=1e-12)
    assert np.abs(merged[:, :4] - (w["v"] + w["l"])[:, :4] / 2).max() > 1e-3


def test_what_the_experts_agree_on_is_exact() -> None:
    rng = np.random.default_rng(0)
    v = rng.standard_normal((4, 6))
    other = v.copy()
    other[2] += 1
    x = rng.standard_normal((60, 6))
    merged = RegMean()(Group(LINEAR, {"v": v, "l": other}, None, dict.fromkeys("vl", x.T @ x)))
    np.testing.assert_array_equal(merged[[0, 1, 3]], v[[0, 1, 3]])


@pytest.mark.parametrize("turned", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("rank", "singular"),
        ("dead", "2 inputs never active"),
        ("zero", "6 inputs never active"),
        ("near", "condition"),
    ],
)
def test_a_singular_sum_is_an_error(case: str, words: str, turned) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3 if case == "rank" else 50, 6))
    if case == "dead":
        x[:, 4:] = 0
    if case == "zero":
        x[:] = 0
    if case == "near":
        x[:, 1] = x[:, 0] * (1 + 1e-9 * rng.standard_normal(len(x)))
    w = {e: turned(rng.standard_normal((4, 6))) for e in "vl"}
    grams = dict.fromkeys("vl", turned(x.T @ x))
    with pytest.raises(MergeError, match=words) as caught:
        RegMean(gamma=1)(Group(LINEAR, w, None, grams))
    assert "layer 3 mlp.fc1.weight" in str(caught.value)
    assert "--ridge" in str(caught.value)
    assert "--gamma" in str(caught.value)


def test_a_singular_sum_through_the_command_line(ckpt, tmp_path) -> None:
    grams = {
        key: np.zeros_like(value) if "1.mlp.v.fc2" in key or "1.mlp.l.fc2" in key else value
        for key, value in tiny_grams(tiny()).items()
    }
    save(tmp_path / "ckpt.grams.safetensors", grams)
    message = fails(1, "merge", ckpt, "-m", "regmean")
    assert "layer 1 mlp.fc2.weight" in message
    assert "--ridge" in message
    assert helpers.leftovers(tmp_path) == []
    ok("merge", ckpt, "-m", "regmean", "--ridge", "1e-6")


def test_custom_norms_need_no_grams(tmp_path) -> None:
    source = save(tmp_path / "ln.safetensors", tiny("custom-ln"))
    ok("merge", source, "-m", "regmean")
    tensors, merged = tiny("custom-ln"), load(tmp_path / "ln.merged.safetensors")
    mean = (tensors["transformer.blocks.0.norm1.v.weight"] + tensors["transformer.blocks.0.norm1.l.weight"]) / 2
    np.testing.assert_allclose(merged["transformer.blocks.0.norm1.weight"], mean, atol=1e-7)


def test_grams_are_not_asked_for_where_none_is_used(tmp_path) -> None:
    """Linear slots that are kept, or have one expert left, need no Gram."""
    source = save(tmp_path / "c.safetensors", tiny())
    ok("merge", source, "-m", "regmean", "--keep", "*.attn.*weight", "--keep", "*.mlp.*weight")
