"""The torch path gives what the numpy path gives."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tests import helpers
from tests.helpers import NUMPY, load, save, save_all, tiny
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.writer import Target, create
from vlmerge_cli.layouts.survey import detect
from vlmerge_cli.merging import execute as engine
from vlmerge_cli.merging.arrays import NumpyArrays, TorchArrays, count_non_finite, is_finite, narrow
from vlmerge_cli.merging.execute import Job, execute
from vlmerge_cli.merging.plan import Request, make_plan
from vlmerge_cli.methods import METHODS
from vlmerge_cli.methods.method import make

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


def merged_on(
    device: str | None, folder: Path, method: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> helpers.Tensors:
    """Merge with torch on a device, or (None) as the command line does on a CPU."""
    with (
        open_checkpoint(folder / "ckpt.safetensors") as opened,
        open_checkpoint(folder / "base.safetensors") as base,
        open_checkpoint(folder / "ckpt.grams.safetensors") as grams,
        monkeypatch.context() as patch,
    ):
        if device is not None:
            patch.setattr(engine, "make_arrays", lambda _: TorchArrays(device))
        survey, _ = detect(opened.tensors, "")
        plan = make_plan(opened, survey, make(method, {}), Request(), base, grams)
        with create(Target(out), plan.specs, {}) as output:
            execute(Job(plan, opened, base, grams, device=device or "cpu"), output)
    return load(out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_torch_equals_numpy(
    device: str, method: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {k: v.astype(NUMPY[dtype]) if v.dtype.kind == "f" else v for k, v in tiny(dtype=np.float64).items()}
    save_all(tmp_path, tensors)
    ours = merged_on(None, tmp_path, method, tmp_path / "numpy.safetensors", monkeypatch)
    theirs = merged_on(device, tmp_path, method, tmp_path / "torch.safetensors", monkeypatch)
    assert set(ours) == set(theirs)
    step = {"F16": 2e-3, "BF16": 2e-2}.get(dtype, 0)  # a difference of 1e-7 may round to the neighbour
    for key, value in ours.items():
        assert theirs[key].dtype == value.dtype
        np.testing.assert_allclose(theirs[key].astype(float), value.astype(float), rtol=step, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("device", DEVICES)
def test_torch_cuts_large_tensors(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchArrays, "chunk_elements", 7)
    save_all(tmp_path, tiny())
    ours = merged_on(None, tmp_path, "interpolation", tmp_path / "numpy.safetensors", monkeypatch)
    theirs = merged_on(device, tmp_path, "interpolation", tmp_path / "torch.safetensors", monkeypatch)
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arrays", [NumpyArrays, lambda: TorchArrays("cpu")], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_load_and_store_are_inverse(arrays, dtype: str, tmp_path: Path) -> None:
    values = np.array([0.0, -0.0, 1.5, -2.25, 6e4, 1e-7, np.inf, -np.inf, np.nan]).astype(NUMPY[dtype])
    with open_checkpoint(save(tmp_path / "a.safetensors", {"a": values})) as opened:
        for wide in ("float32", "float64") if dtype != "F64" else ("float64",):
            one = arrays()
            array = one.load("x", opened, "a", 0, len(values), wide)
            assert one.num_non_finite(array) == 3
            assert one.num_non_finite(one.load("x", opened, "a", 0, 5, wide)) == 0
            stored = one.store(one.load("x", opened, "a", 2, 4, wide), dtype)
            assert bytes(stored) == values[2:6].tobytes()


def test_loads_under_two_names_do_not_share_memory(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path / "a.safetensors", {"a": np.arange(4.0)})) as opened:
        for arrays in (NumpyArrays(), TorchArrays("cpu")):
            x = arrays.load("x", opened, "a", 0, 2, "float64")
            arrays.load("y", opened, "a", 2, 2, "float64")
            assert list(x) == [0, 1]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_every_half_is_widened_exactly(dtype: str, wide: str, tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(NUMPY[dtype])
    with open_checkpoint(save(tmp_path / "a.safetensors", {"a": every})) as opened, np.errstate(invalid="ignore"):
        for arrays in (NumpyArrays(), TorchArrays("cpu")):
            found = np.asarray(arrays.load("x", opened, "a", 0, len(every), wide))
            np.testing.assert_array_equal(found, every.astype(wide))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_what_is_not_finite_is_found_among_what_is(dtype: str) -> None:
    kind = NUMPY[dtype]
    largest = np.finfo(kind).max if dtype != "BF16" else ml_dtypes.finfo(kind).max
    fine = np.array([0.0, -0.0, 1, -1, largest, -largest, np.nextafter(np.float32(0), np.float32(1))]).astype(kind)
    assert is_finite(fine.view(np.uint8), dtype)
    assert is_finite(fine[:0].view(np.uint8), dtype)
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        mixed = np.concatenate([fine, np.array([bad]).astype(kind), fine]).view(np.uint8)
        assert not is_finite(mixed, dtype), bad
        assert count_non_finite(mixed, dtype) == 1


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_is_judged_as_numpy_does(dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    right = np.isfinite(every.view(NUMPY[dtype]).astype(np.float32))
    assert [is_finite(one.view(np.uint8), dtype) for one in every[:, None]] == right.tolist()
    assert count_non_finite(every.view(np.uint8), dtype) == np.count_nonzero(~right)


def test_narrow_rounds_to_the_nearest_even() -> None:
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-9, -1 - 2**-8], np.float32)
    np.testing.assert_array_equal(narrow(x, "BF16").view(NUMPY["BF16"]).astype(float), [1, 1 + 2**-6, 1, -1])
    assert narrow(x, "F32").base is not None, "no copy"
