from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmerge_cli.methods import linalg

KINDS = pytest.mark.parametrize("turned", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])


@KINDS
@pytest.mark.parametrize("width", [0, 1, 2, 7, 33])
@pytest.mark.parametrize("band_rows", [1024, 7])
def test_pack_and_unpack(width: int, turned, band_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg, "BAND_ROWS", band_rows)
    a = np.random.default_rng(0).standard_normal((width, width))
    a = a + a.T
    packed = linalg.pack(turned(a))
    assert len(packed) == linalg.packed_size(width) == width * (width + 1) // 2
    np.testing.assert_array_equal(np.asarray(packed), a[np.triu_indices(width)])
    np.testing.assert_array_equal(np.asarray(linalg.unpack(packed)), a)


@pytest.mark.parametrize("width", [0, 1, 2, 767, 3072, 40_000])
def test_the_width_of_a_packed_triangle(width: int) -> None:
    size = linalg.packed_size(width)
    assert linalg.packed_width(size) == width
    if width > 1:
        assert linalg.packed_width(size + 1) == linalg.packed_width(size - 1) == -1


@KINDS
@pytest.mark.parametrize("width", [1, 2, 40])
def test_solve(width: int, turned) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3 * width, width))
    system, right = x.T @ x, rng.standard_normal((5, width))
    found = linalg.solve(turned(system.copy()), turned(right.copy()))
    np.testing.assert_allclose(np.asarray(found.value) @ system, right, atol=1e-10)
    true = np.linalg.cond(system, 1)
    assert true / 10 <= found.condition <= true * 1.01, (found.condition, true)


@KINDS
def test_no_factor_means_no_value(turned) -> None:
    found = linalg.solve(turned(np.diag([1.0, -1.0])), turned(np.ones((1, 2))))
    assert found.value is None
    assert found.condition == np.inf


@KINDS
def test_condition(turned) -> None:
    assert linalg.condition(turned(np.diag([4.0, 2.0, 0.5]))) == pytest.approx(8)
    assert linalg.condition(turned(np.diag([1.0, 0.0]))) == np.inf


@KINDS
def test_as_float64_is_a_copy(turned) -> None:
    a = turned(np.ones(3))
    b = linalg.as_float64(a)
    b[0] = 5
    assert float(a[0]) == 1
