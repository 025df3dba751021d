"""The sums of a chunk against the formulas, which take no care of speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlmerge_cli.metrics.l2_cosine import Pairwise
from vlmerge_cli.metrics.numpy_sums import NumpySums
from vlmerge_cli.metrics.soft_sign import Sign, soft_sign, truncated
from vlmerge_cli.metrics.threshold import Bracket, Coding
from vlmerge_cli.metrics.torch_sums import TorchSums

SIZE = 20_000


def vectors(kind: str, wide: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, SIZE - 7))
    if kind == "zeros and ties":
        x, y = rng.integers(-2, 3, (2, SIZE)) * rng.choice([1.0, -1.0], (2, SIZE))
    elif kind == "equal":
        y = x
    elif kind == "opposite":
        y = -x
    elif kind == "subnormal":
        x, y = x * (1e-40 if wide == "float32" else 1e-310), y * (1e-40 if wide == "float32" else 1e-310)
    elif kind == "all scales":
        x, y = x * 10.0 ** rng.integers(-30, 30, x.size), y * 10.0 ** rng.integers(-30, 30, x.size)
    elif kind == "largest":
        x, y = (np.where(rng.random(50) < 0.5, -1, 1) * float(np.finfo(wide).max) for _ in "xy")
    elif kind == "none":
        x, y = x[:0], y[:0]
    return x.astype(wide), y.astype(wide)


def bracket(coding: Coding, low: float, high: float) -> Bracket:
    codes = coding.codes(np.array([low, high], coding.wide)).tolist()
    return Bracket(1, coding, *(code if value >= 0 else -1 for code, value in zip(codes, (low, high), strict=True)))


class OnTorch:
    """TorchSums, from numpy vectors."""

    def __init__(self, size: int, wide: str) -> None:
        self._sums = TorchSums()

    def sums(self, x: np.ndarray, y: np.ndarray) -> Any:
        return self._sums.sums(torch.tensor(x), torch.tensor(y))

    def count(self, x: np.ndarray, bracket: Bracket) -> Any:
        return self._sums.count(torch.tensor(x), bracket)

    def truncated(self, x: np.ndarray, y: np.ndarray, *limits: float) -> Any:
        return self._sums.truncated(torch.tensor(x), torch.tensor(y), *limits)


ENGINES = [NumpySums, OnTorch]
KINDS = ["normal", "zeros and ties", "equal", "opposite", "subnormal", "all scales", "largest", "none"]


@pytest.mark.parametrize("limits", [(0, 0), (0.5, 0.25), (0.9, 0.3), (1, 2), (1e30, 1e30)], ids=str)
@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_against_the_formulas(engine: Any, kind: str, wide: str, limits: tuple[float, float]) -> None:
    x, y = vectors(kind, wide)
    chunk = engine(SIZE, wide)
    pairwise, ssd = chunk.sums(x, y)

    wanted = Pairwise.of(x.astype(np.float64), y.astype(np.float64))
    assert (pairwise.l2, pairwise.cosine) == pytest.approx((wanted.l2, wanted.cosine), rel=1e-12, abs=1e-15)
    assert ssd.count == len(x)
    assert ssd.value == pytest.approx(soft_sign(x, y).value, rel=1e-12)
    limits = tuple(float(np.dtype(wide).type(limit)) for limit in limits)
    tssd = truncated(x, y, *limits)
    assert chunk.truncated(x, y, *limits) == Sign(pytest.approx(tssd.total, rel=1e-12), tssd.count)


@pytest.mark.parametrize("bounds", [(-1, np.inf), (-1, 0.5), (0.3, 0.9), (1, np.inf), (0, 1e-30)], ids=str)
@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_counts_and_members_of_a_bracket(engine: Any, kind: str, wide: str, bounds: tuple[float, float]) -> None:
    coding = Coding.of({"F32" if wide == "float32" else "F64"})
    one = bracket(coding, *bounds)
    low, high = one.bounds
    for values in vectors(kind, wide):
        magnitudes = np.abs(values)
        below, inside, members = engine(SIZE, wide).count(values, one)
        assert below == (magnitudes <= low).sum()
        assert inside == ((magnitudes > low) & (magnitudes <= high)).sum()
        np.testing.assert_array_equal(members, magnitudes[(magnitudes > low) & (magnitudes <= high)])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exact_bracket_needs_no_members(engine: Any) -> None:
    x, _ = vectors("zeros and ties", "float32")
    coding = Coding.of({"F32"})
    code = int(coding.codes(np.ones(1, np.float32))[0])
    _, inside, members = engine(SIZE, "float32").count(x, Bracket(5, coding, code - 1, code))
    assert inside == int((np.abs(x) == 1).sum()) > 0
    assert len(members) == 0


def test_buffers_hold_nothing_over_and_inputs_stay() -> None:
    one = bracket(Coding.of({"F32"}), 0.3, 0.9)
    chunk, results = NumpySums(SIZE, "float32"), []
    for kind in ("normal", "largest", "equal", "none", "normal"):
        x, y = vectors(kind, "float32")
        x.setflags(write=False)
        y.setflags(write=False)
        results.append((chunk.sums(x, y), chunk.truncated(x, y, 0.3, 0.1), chunk.count(x, one)))
    (sums, tssd, counted), *_, (again, tssd_again, counted_again) = results
    assert (sums, tssd, counted[:2]) == (again, tssd_again, counted_again[:2])
    np.testing.assert_array_equal(counted[2], counted_again[2])
