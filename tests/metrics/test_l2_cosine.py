from __future__ import annotations

import math

import numpy as np
import pytest

from vlmerge_cli.metrics.l2_cosine import ROW, Pairwise, row_dot


def test_against_numpy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5000))
    found = Pairwise.of(x, y)
    assert found.l2 == pytest.approx(np.linalg.norm(x - y), rel=1e-12)
    assert found.cosine == pytest.approx(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)


def test_chunks_add_up() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5000))
    parts = [Pairwise.of(a, b) for a, b in zip(np.array_split(x, 9), np.array_split(y, 9), strict=True)]
    total = sum(parts, Pairwise())
    assert total.l2 == pytest.approx(Pairwise.of(x, y).l2, rel=1e-13)
    assert total.cosine == pytest.approx(Pairwise.of(x, y).cosine, rel=1e-13)


@pytest.mark.parametrize(
    ("x", "y", "l2", "cosine"),
    [
        ([0.0, 0.0], [0.0, -0.0], 0, 0),
        ([0.0, 0.0], [3.0, 4.0], 5, 1),
        ([3.0, 4.0], [0.0, 0.0], 5, 1),
        ([1.0, 0.0], [0.0, 1.0], math.sqrt(2), 1),
        ([1.0, 2.0], [-1.0, -2.0], math.sqrt(20), 2),
        ([], [], 0, 0),
        ([2.0], [3.0], 1, 0),
    ],
)
def test_by_hand(x: list[float], y: list[float], l2: float, cosine: float) -> None:
    found = Pairwise.of(np.array(x), np.array(y))
    assert found.l2 == pytest.approx(l2)
    assert found.cosine == pytest.approx(cosine, abs=1e-15)


def test_no_dissimilarity_is_below_zero() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 200):
        x = rng.standard_normal(size)
        assert 0 <= Pairwise.of(x, x).cosine <= 1e-15
        assert 0 <= Pairwise.of(x, 3 * x).cosine <= 1e-15


@pytest.mark.parametrize("scale", [2.0**-1040, 2.0**-1000, 2.0**-520, 2.0**-360, 1.0, 2.0**460, 2.0**520, 2.0**1020])
def test_squares_need_not_be_in_the_range_of_float64(scale: float) -> None:
    """Not even where chunks are on scales of their own; powers of two lose no bit until they are subnormal."""
    rng = np.random.default_rng(0)
    x, y = np.round(rng.uniform(-8, 8, (2, 5000)) * 2**14) * 2**-14  # exact in a subnormal of 2^-1040 times 1
    parts = [Pairwise.of(a * scale, b * scale) for a, b in zip(x.reshape(5, -1), y.reshape(5, -1), strict=True)]
    for found in (sum(parts, Pairwise()), sum(reversed(parts), Pairwise.of(np.zeros(3), np.zeros(3)))):
        assert found.is_finite
        wanted = np.linalg.norm(x - y)
        assert found.l2 == (np.inf if scale == 2.0**1020 else pytest.approx(wanted * scale, rel=1e-12, abs=1e-322))
        assert found.cosine == pytest.approx(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)


def test_chunks_on_different_scales_add_up() -> None:
    x, y = np.array([3e160, 1e-3]), np.array([-1e160, 5.0])
    whole, parts = Pairwise.of(x, y), Pairwise.of(x[:1], y[:1]) + Pairwise.of(x[1:], y[1:])
    for found in (whole, parts):
        assert found.l2 == pytest.approx(4e160, rel=1e-15)
        assert found.cosine == pytest.approx(2, rel=1e-15)
    near = Pairwise.of(np.array([2.0**449.5]), np.array([0.0])) + Pairwise.of(np.array([2.0**451]), np.array([0.0]))
    assert near.l2 == pytest.approx(3 * 2.0**449.5, rel=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [1.0, np.inf, 1e300])
def test_what_is_not_finite_is_told(value: float, other: float) -> None:
    bad = Pairwise.of(np.array([1.0, value]), np.array([1.0, other]))
    assert not bad.is_finite
    assert not (Pairwise.of(np.ones(2), np.ones(2)) + bad).is_finite
    assert Pairwise.of(np.array([1.7e308, 1]), np.array([-1.7e308, 1])).is_finite


@pytest.mark.parametrize("size", [0, 1, ROW - 1, ROW, ROW + 1, 3 * ROW, 3 * ROW + 5])
def test_row_dot(size: int) -> None:
    a, b = np.random.default_rng(0).integers(-9, 9, (2, size)).astype(np.float64)
    assert row_dot(a, b) == int((a * b).sum())
