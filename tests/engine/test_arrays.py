"""Arrays in numpy and in torch hold what the file holds."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.helpers import NUMPY, nearest, save
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.engine.arrays import NumpyArrays, count_non_finite, is_finite, narrow
from vlmerge_cli.engine.torcharrays import TorchArrays


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


@pytest.mark.parametrize("arrays", [NumpyArrays, lambda: TorchArrays("cpu")], ids=["numpy", "torch"])
@pytest.mark.parametrize(("dtype", "bits"), [("BF16", 8), ("F16", 11)])
def test_float64_is_rounded_once(arrays, dtype: str, bits: int) -> None:
    """1 + 2⁻⁸ + 2⁻⁴⁰ is above the middle of two numbers of bfloat16; float32 alone would see it in the middle."""
    random = np.random.default_rng(0)
    ties = 1 + (2 * random.integers(0, 2 ** (bits - 1), 200) + 1) * 2.0**-bits
    close = [tie + sign * 2.0**-power for tie in ties for sign in (1, -1) for power in (30, 40, 50)]
    values = np.array([*ties, *close, *random.standard_normal(200), 1e-41, 1e-8, 0.0, 1 + 2.0**-8 + 2.0**-40])
    values = np.concatenate([values, -values])
    stored = np.asarray(arrays().store(arrays_of(arrays, values), dtype)).view(NUMPY[dtype]).astype(np.float64)
    assert stored.tolist() == [nearest(value, dtype) for value in values.tolist()]
    if dtype == "BF16":
        assert stored[len(values) // 2 - 1] == 1.0078125


def arrays_of(arrays, values: np.ndarray):
    return values if arrays is NumpyArrays else torch.from_numpy(values)
