from __future__ import annotations

import math

import numpy as np
import pytest

from vlmerge_cli.metrics.pairwise import Pairwise


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
