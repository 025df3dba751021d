"""Laws that every method in the table keeps; a new method is tested by being there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import helpers
from tests.helpers import load, method_arguments, ok, read_raw, save, save_all, tiny
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods import METHODS
from vlmerge_cli.methods.method import Group, Method, make, method_class

SLOTS = {
    "linear": Slot(1, "mlp.fc1.weight", "linear"),
    "bias": Slot(1, "mlp.fc1.bias", "bias"),
    "norm": Slot(1, "norm1.weight", "norm"),
    "other": Slot(1, "scale", "other"),
}
EXPERTS = (("v", "l"), ("v", "vl"), ("l", "vl"), ("v", "l", "vl"))
methods = pytest.mark.parametrize("name", METHODS)


def group(kind: str, experts: tuple[str, ...], shape: tuple[int, ...], wide: Any = np.float64, seed: int = 0) -> Group:
    rng = np.random.default_rng(seed)
    arrays = {expert: rng.standard_normal(shape).astype(wide) for expert in experts}
    base = rng.standard_normal(shape).astype(wide)
    grams = {}
    if kind == "linear":
        for expert in experts:
            x = rng.standard_normal((64, shape[1]))
            grams[expert] = x.T @ x
    return Group(SLOTS[kind], arrays, base, grams, top=("vl",))


def shape_of(kind: str) -> tuple[int, ...]:
    return (7, 5) if kind == "linear" else (11,)


def as_torch(one: Group) -> Group:
    def turned(arrays: Any) -> dict[str, Any]:
        return {expert: torch.from_numpy(np.array(array)) for expert, array in arrays.items()}

    return Group(one.slot, turned(one.experts), torch.from_numpy(np.array(one.base)), turned(one.grams), top=one.top)


@methods
def test_a_method_says_what_it_is(name: str) -> None:
    kind = method_class(name)
    assert kind.name == name
    assert issubclass(kind, Method)
    doc = kind.__doc__ or ""
    assert "=" in doc, "the formula is in the docstring"
    assert "paper section" in doc, "so is the source"


@methods
@pytest.mark.parametrize("kind", SLOTS)
@pytest.mark.parametrize("experts", EXPERTS, ids=",".join)
def test_equal_experts_give_that_expert(name: str, kind: str, experts: tuple[str, ...]) -> None:
    one = group(kind, experts, shape_of(kind))
    value = one.experts[experts[0]]
    same = Group(one.slot, dict.fromkeys(experts, value), value.copy(), one.grams, top=one.top)
    np.testing.assert_allclose(make(name, {})(same), value, rtol=1e-14, atol=1e-14)


@methods
@pytest.mark.parametrize("kind", SLOTS)
def test_inputs_stay_as_they_are_and_the_result_is_new(name: str, kind: str) -> None:
    one, untouched = (group(kind, ("v", "l", "vl"), shape_of(kind)) for _ in range(2))
    held = [*one.experts.values(), one.base, *one.grams.values()]
    for array in held:
        array.setflags(write=False)
    merged = make(name, {})(one)
    assert not any(np.shares_memory(merged, array) for array in held)
    for array, before in zip(
        held, [*untouched.experts.values(), untouched.base, *untouched.grams.values()], strict=True
    ):
        np.testing.assert_array_equal(array, before)


@methods
@pytest.mark.parametrize("kind", SLOTS)
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_chunks_of_an_elementwise_slot_are_bitwise_the_whole(name: str, kind: str, wide: str) -> None:
    method = make(name, {})
    if not method.elementwise(SLOTS[kind]):
        pytest.skip(f"{name} needs {kind} slots whole")
    one = group(kind, ("v", "l", "vl"), (7, 5) if kind == "linear" else (35,), wide)
    whole = np.asarray(method(one)).reshape(-1)
    assert whole.dtype == wide
    flat = {expert: array.reshape(-1) for expert, array in one.experts.items()}
    for cuts in ((0, 1, 35), (0, 13, 14, 35), tuple(range(36))):
        parts = [
            method(Group(one.slot, {e: a[i:j] for e, a in flat.items()}, one.base.reshape(-1)[i:j], top=one.top))
            for i, j in pairwise(cuts)
        ]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@methods
@pytest.mark.parametrize("kind", SLOTS)
@pytest.mark.parametrize("experts", EXPERTS, ids=",".join)
def test_torch_gives_what_numpy_gives(name: str, kind: str, experts: tuple[str, ...]) -> None:
    one = group(kind, experts, shape_of(kind))
    ours, theirs = make(name, {})(one), make(name, {})(as_torch(one))
    assert isinstance(theirs, torch.Tensor)
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-12, atol=1e-12)


@methods
@pytest.mark.parametrize("kind", ["bias", "norm", "other"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (1, 1)], ids=str)
def test_degenerate_shapes(name: str, kind: str, shape: tuple[int, ...]) -> None:
    one = group(kind, ("v", "l", "vl"), shape, "float32")
    merged = make(name, {})(one)
    assert merged.shape == shape
    assert merged.dtype == np.float32
    assert tuple(make(name, {})(as_torch(one)).shape) == shape


@methods
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3), (0, 3)], ids=str)
def test_degenerate_linear_weights(name: str, shape: tuple[int, int]) -> None:
    one = group("linear", ("v", "l"), shape)
    merged = np.asarray(make(name, {})(one))
    assert merged.shape == shape
    assert np.isfinite(merged).all()
    assert tuple(make(name, {})(as_torch(one)).shape) == shape


@methods
def test_the_settings_name_every_option(name: str) -> None:
    method = make(name, {})
    assert set(method.settings()) == {option.flag.lstrip("-") for option in method.options() if option.default != ""}


# --- through the command line ---


@methods
@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_a_single_expert_left_is_copied_bit_for_bit(name: str, task: str, ckpt: Path) -> None:
    out = ckpt.with_name("out.safetensors")
    ok("merge", ckpt, "-o", out, "--experts-for", task, *method_arguments(name, ckpt.parent))
    before, after = read_raw(ckpt), read_raw(out)
    for slot in helpers.slot_shapes(1, 1):
        assert after[helpers.merged_key(2, slot)] == before[helpers.expert_key(2, slot, "vl")]
        assert after[helpers.merged_key(1, slot)] != before[helpers.expert_key(1, slot, "v")]


@methods
def test_threads_key_order_and_repetition_do_not_change_a_byte(name: str, tmp_path: Path) -> None:
    tensors = tiny(width=24, hidden=40)
    turned = dict(reversed(tensors.items()))
    outputs = set()
    for place, (content, threads) in enumerate([(tensors, 1), (tensors, 1), (tensors, 2), (tensors, 4), (turned, 2)]):
        folder = tmp_path / str(place)
        source = save_all(folder, content)
        save(folder / "ckpt.grams.safetensors", helpers.tiny_grams(tensors))
        save(folder / "base.safetensors", helpers.tiny_base(tensors))
        out = folder / "out.safetensors"
        ok("merge", source, "-o", out, "--threads", threads, *method_arguments(name, folder))
        whole = out.read_bytes()
        # the digest of the input, which is in the metadata, follows the order of its keys
        outputs.add(whole if content is tensors else None)
        outputs.add(tuple(sorted(read_raw(out).items())))
    assert len(outputs) == 3, "one set of tensors, one file for one input, and the turned one's None"


@methods
def test_many_chunks_equal_one_pass_in_numpy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's pieces, at a size where every tensor is cut, give the bytes of uncut ones."""
    from vlmerge_cli.merging import execute

    source = save_all(tmp_path, tiny())
    results = []
    for chunk in (1 << 17, 7, 1):
        monkeypatch.setattr(execute, "CHUNK_ELEMENTS", chunk)
        out = tmp_path / f"{chunk}.safetensors"
        ok("merge", source, "-o", out, *method_arguments(name, tmp_path))
        results.append(out.read_bytes())
    assert results[1:] == results[:1] * 2


@methods
def test_every_key_of_the_output_is_expected(name: str, ckpt: Path) -> None:
    out = ckpt.with_name("out.safetensors")
    ok("merge", ckpt, "-o", out, *method_arguments(name, ckpt.parent))
    merged, agnostic = load(out), tiny("agnostic")
    assert {k: (v.dtype, v.shape) for k, v in merged.items()} == {k: (v.dtype, v.shape) for k, v in agnostic.items()}
