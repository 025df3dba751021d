"""Types, rounding and what is copied bit for bit."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import (
    NUMPY,
    Raw,
    expert_key,
    experts_of,
    fails,
    load,
    merged_key,
    nearest,
    ok,
    read_raw,
    save,
    slot_shapes,
    tiny,
)

FLOATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
EVERY = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64,
    "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip


def every_type() -> dict[str, Raw]:
    """A tensor of each type of the format, of arbitrary bits (NaN among them), outside the blocks."""
    rng = np.random.default_rng(3)
    return {f"extra.{name}": Raw(name, (4, 2), rng.bytes(8 * bits // 8)) for name, bits in EVERY.items()}


def test_the_table_of_types_is_the_formats() -> None:
    from vlmerge_cli.checkpoint.dtypes import DTYPES

    assert {name: dtype.bits for name, dtype in DTYPES.items()} == EVERY


def test_every_type_is_copied_bit_for_bit(tmp_path: Path) -> None:
    extra = every_type()
    source = save(tmp_path / "c.safetensors", {**tiny(), **extra})
    ok("merge", source)
    ok("merge", source, "-o", tmp_path / "folder", "--max-shard-size", "2kB")
    found = {key: raw for path in (tmp_path / "folder").glob("*.safetensors") for key, raw in read_raw(path).items()}
    for merged in (read_raw(tmp_path / "c.merged.safetensors"), found):
        assert {key: merged[key] for key in extra} == extra


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, "two file systems")


def short(real: Callable[..., int]) -> Callable[..., int]:
    """Moves three bytes here and there, and then no more."""
    return lambda source, to, count, *at: real(source, to, min(3, count), *at) if at[0] % 3 == 0 else 0


@pytest.mark.parametrize("how", ["works", "is refused", "stops early", "is not there"])
def test_what_is_copied_is_the_same_however_the_kernel_copies(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "c.safetensors", {**tiny(), **every_type()})
    calls = []
    real = os.copy_file_range
    if how == "works":
        monkeypatch.setattr(os, "copy_file_range", lambda *a: calls.append(a) or real(*a))
    elif how == "is not there":
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", refuse if how == "is refused" else short(real))
    ok("merge", source)
    monkeypatch.undo()
    before, merged = read_raw(source), read_raw(tmp_path / "c.merged.safetensors")
    copied = set(before) & set(merged)
    assert set(every_type()) < copied
    assert {key: merged[key] for key in copied} == {key: before[key] for key in copied}
    assert len(calls) == (len([key for key in copied if before[key].data]) if how == "works" else 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_leaves_other_types_alone(dtype: str, tmp_path: Path) -> None:
    extra = {key: raw for key, raw in every_type().items() if raw.dtype not in FLOATS.values()}
    source = save(tmp_path / "c.safetensors", {**tiny(), **extra})
    ok("merge", source, "--dtype", dtype)
    merged = read_raw(tmp_path / "c.merged.safetensors")
    assert {key: merged[key] for key in extra} == extra
    assert {raw.dtype for key, raw in merged.items() if key not in extra} == {FLOATS[dtype], "I64"}


def reference(
    tensors: dict[str, np.ndarray], wide: str, alpha: float = 0.5, ratio: float = 1 / 3
) -> dict[str, np.ndarray]:
    """Interpolation computed in one type throughout."""
    merged = {}
    for layer in range(3):
        for name in slot_shapes(1, 1):
            w = {e: tensors[expert_key(layer, name, e)].astype(wide) for e in experts_of(layer, 2)}
            value = alpha * w["v"] + (1 - alpha) * w["l"]
            merged[merged_key(layer, name)] = (1 - ratio) * value + ratio * w["vl"] if "vl" in w else value
    return merged


@pytest.mark.parametrize("came", FLOATS.values())
@pytest.mark.parametrize("asked", [None, *FLOATS])
def test_computed_wide_and_rounded_once(came: str, asked: str | None, tmp_path: Path) -> None:
    """float32 is the least that is computed in, float64 where it is the input's or the output's type."""
    tensors = {
        key: value.astype(NUMPY[came]) if value.dtype.kind == "f" else value
        for key, value in tiny(dtype=np.float64).items()
    }
    source = save(tmp_path / "c.safetensors", tensors)
    ok("merge", source, *(["--dtype", asked] if asked else []))
    merged = load(tmp_path / "c.merged.safetensors")
    out = NUMPY[FLOATS[asked] if asked else came]
    wide = "float64" if np.dtype("float64") in (out, NUMPY[came]) else "float32"
    for key, value in reference(tensors, wide).items():
        assert merged[key].dtype == out
        assert merged[key].tobytes() == once(value, out).tobytes(), key
    for key in ("logit_scale", "transformer.norm.weight", "transformer.blocks.0.gamma_1"):
        assert merged[key].tobytes() == once(tensors[key], out).tobytes(), key


def once(values: np.ndarray, out: type) -> np.ndarray:
    """Rounded to a type; ml_dtypes takes float64 to bfloat16 through float32, which rounds twice."""
    if values.dtype == np.float64 and out is ml_dtypes.bfloat16:
        return np.array([nearest(value, "BF16") for value in values.ravel()], np.float32).astype(out)
    return values.astype(out)


def test_halves_are_not_added_as_halves(tmp_path: Path) -> None:
    """1 + 2⁻⁸ in bfloat16 would be lost if the sum were rounded on the way."""
    key = {e: expert_key(0, "norm1.weight", e) for e in ("v", "l")}
    tensors = tiny(dtype=ml_dtypes.bfloat16)
    tensors[key["v"]] = np.full(6, 1.0078125, ml_dtypes.bfloat16)
    tensors[key["l"]] = np.full(6, 2.015625, ml_dtypes.bfloat16)
    ok("merge", save(tmp_path / "c.safetensors", tensors))
    merged = load(tmp_path / "c.merged.safetensors")["transformer.blocks.0.norm1.weight"]
    assert merged[0] == np.float32(1.51171875).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("method", ["interpolation", "regmean"])
def test_sharded_and_whole_inputs_give_the_same_tensors(method: str, ckpt: Path, tmp_path: Path) -> None:
    from tests.helpers import save_sharded, tiny_grams

    folder = save_sharded(tmp_path / "sharded", tiny(), 3)
    save(tmp_path / "sharded.grams.safetensors", tiny_grams(tiny()))
    ok("merge", ckpt, "-m", method)
    ok("merge", folder, "-m", method)
    assert read_raw(tmp_path / "ckpt.merged.safetensors") == read_raw(tmp_path / "sharded.merged" / "model.safetensors")


def test_what_safetensors_reads(ckpt: Path, tmp_path: Path) -> None:
    """The reference implementation opens the output, and sees what the independent reader sees."""
    from safetensors import safe_open

    ok("merge", ckpt)
    ours = load(tmp_path / "ckpt.merged.safetensors")
    with safe_open(tmp_path / "ckpt.merged.safetensors", "numpy") as theirs:
        assert theirs.metadata()["format"] == "pt"
        assert set(theirs.keys()) == set(ours)
        for key in theirs.keys():  # noqa: SIM118
            np.testing.assert_array_equal(theirs.get_tensor(key), ours[key])


@pytest.mark.parametrize(("v", "other"), [("F32", "BF16"), ("BF16", "F32"), ("F32", "F64"), ("F16", "BF16")])
def test_experts_of_different_float_types_merge_to_the_type_asked_for(v: str, other: str, tmp_path: Path) -> None:
    """Each is widened from its own type: as if both had been stored in the wider one."""
    experts = [key for key in tiny() if any(f".{e}." in key for e in ("v", "l", "vl"))]
    types = {key: NUMPY[v if ".v." in key else other] for key in experts}
    mixed = {key: value.astype(types[key]) if key in types else value for key, value in tiny(dtype=np.float64).items()}
    wide = {key: value.astype(np.float64 if "F64" in (v, other) else np.float32) if key in types else value
            for key, value in mixed.items()}  # fmt: skip
    out = "float64" if "F64" in (v, other) else "float32"
    source = save(tmp_path / "mixed.safetensors", mixed)
    message = fails(1, "merge", source)
    assert f"v is {v}, l is {other}" in message
    assert "--dtype" in message
    ok("merge", source, "--dtype", out, "-o", tmp_path / "a.safetensors")
    ok("merge", save(tmp_path / "wide.safetensors", wide), "--dtype", out, "-o", tmp_path / "b.safetensors")
    assert read_raw(tmp_path / "a.safetensors") == read_raw(tmp_path / "b.safetensors")
