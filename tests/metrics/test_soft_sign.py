from __future__ import annotations

import numpy as np
import pytest

from vlmerge_cli.metrics.soft_sign import Sign, soft_sign, truncated


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """The paper's formula, two zeros being fully similar."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    below = np.abs(x) + np.abs(y)
    similar = np.divide(np.abs(x + y), below, out=np.ones_like(below), where=below > 0)
    return float(1 - similar.mean()) if len(x) else 0.0


@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_against_numpy(wide: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5000)).astype(wide)
    x[::7] = 0
    y[::5] = -0.0
    assert soft_sign(x, y).value == pytest.approx(plain(x, y), rel=1e-9)
    for limits in ((-1.0, -1.0), (0.0, 0.0), (0.3, 0.6), (9.0, 9.0)):
        a, b = (np.where(np.abs(v) <= limit, 0, v) for v, limit in zip((x, y), limits, strict=True))
        kept = (a != 0) | (b != 0)
        found = truncated(x, y, *limits)
        assert found.count == kept.sum()
        assert found.value == pytest.approx(plain(a[kept], b[kept]), rel=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "ssd"),
    [
        ([1.0], [1.0], 0),
        ([1.0], [-1.0], 1),
        ([1.0], [-3.0], 0.5),
        ([1.0], [3.0], 0),
        ([0.0], [0.0], 0),
        ([0.0], [-0.0], 0),
        ([-0.0], [5.0], 0),
        ([0.0], [-5.0], 0),
        ([1.0, 1.0], [-1.0, 1.0], 0.5),
        ([], [], 0),
    ],
)
def test_by_hand(x: list[float], y: list[float], ssd: float) -> None:
    assert soft_sign(np.array(x), np.array(y)).value == ssd


def test_chunks_add_up() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 999))
    parts = [soft_sign(a, b) for a, b in zip(np.array_split(x, 9), np.array_split(y, 9), strict=True)]
    assert sum(parts, Sign()).value == pytest.approx(soft_sign(x, y).value, rel=1e-13)


def test_nothing_left_is_zero() -> None:
    assert truncated(np.ones(3), -np.ones(3), 1.0, 1.0) == Sign(0.0, 0)
    assert Sign().value == 0


def test_the_largest_and_the_smallest_values() -> None:
    """|x|+|y| overflows, min/(|x|+|y|) vanishes."""
    x, y = np.array([1.7e308, 1.7e308, 5e-324, 1e-300]), np.array([-1.7e308, -0.85e308, -5e-324, -1e300])
    assert soft_sign(x, y) == Sign(pytest.approx(1 + 2 / 3 + 1), 4)
    assert truncated(x, y, 1.0, 1.0) == Sign(pytest.approx(1 + 2 / 3), 3)


def test_inputs_stay() -> None:
    x, y = np.array([1.0, -2.0]), np.array([-1.0, 2.0])
    x.setflags(write=False)
    y.setflags(write=False)
    soft_sign(x, y)
    truncated(x, y, 0.5, 0.5)
