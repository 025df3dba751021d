"""The sums of a chunk against the formulas, which take no care of speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlmerge_cli.metrics.chunk import Chunk, Split
from vlmerge_cli.metrics.pairwise import Pairwise
from vlmerge_cli.metrics.select import Bracket, Coding
from vlmerge_cli.metrics.sign import Sign, soft_sign, truncated
from vlmerge_cli.metrics.torchchunk import TorchChunk

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
    """TorchChunk, from numpy vectors."""

    def __init__(self, size: int, wide: str) -> None:
        self._chunk = TorchChunk()

    def __call__(self, x: np.ndarray, y: np.ndarray, brackets: Any) -> Any:
        return self._chunk(torch.tensor(x), torch.tensor(y), brackets)

    def truncated(self, x: np.ndarray, y: np.ndarray, brackets: Any) -> Any:
        return self._chunk.truncated(torch.tensor(x), torch.tensor(y), brackets)


ENGINES = [Chunk, OnTorch]
KINDS = ["normal", "zeros and ties", "equal", "opposite", "subnormal", "all scales", "largest", "none"]


@pytest.mark.parametrize("bounds", [(-1, np.inf), (-1, 0.5), (0.3, 0.9), (1, np.inf), (0, 1e-30)], ids=str)
@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_against_the_formulas(engine: Any, kind: str, wide: str, bounds: tuple[float, float]) -> None:
    x, y = vectors(kind, wide)
    coding = Coding.of({"F32" if wide == "float32" else "F64"})
    brackets = bracket(coding, *bounds), bracket(coding, bounds[0], bounds[1] / 2)
    chunk = engine(SIZE, wide)
    pairwise, ssd, split = chunk(x, y, brackets)

    wanted = Pairwise.of(x.astype(np.float64), y.astype(np.float64))
    assert (pairwise.l2, pairwise.cosine) == pytest.approx((wanted.l2, wanted.cosine), rel=1e-12, abs=1e-15)
    assert ssd.count == len(x)
    assert ssd.value == pytest.approx(soft_sign(x, y).value, rel=1e-12)
    open_pair = np.zeros(len(x), bool)
    for values, one, below, inside in zip((x, y), brackets, split.num_below, split.num_inside, strict=True):
        low, high = one.bounds
        assert below == (np.abs(values) <= low).sum()
        assert inside == ((np.abs(values) > low) & (np.abs(values) <= high)).sum()
        open_pair |= (np.abs(values) > low) & (np.abs(values) <= high)
    for values, near in zip((x, y), split.near, strict=True):
        np.testing.assert_array_equal(near, values[open_pair])
    clear = truncated(x[~open_pair], y[~open_pair], *(one.bounds[1] for one in brackets))
    assert split.clear.count == clear.count
    assert split.clear.total == pytest.approx(clear.total, rel=1e-12)
    alone = chunk.truncated(x, y, brackets)
    assert alone.clear == Sign(pytest.approx(clear.total, rel=1e-12), clear.count)
    assert (alone.num_below, alone.num_inside) == (split.num_below, split.num_inside)
    np.testing.assert_array_equal(alone.near, split.near)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exact_bracket_leaves_no_pair_open(engine: Any) -> None:
    x, y = vectors("zeros and ties", "float32")
    coding = Coding.of({"F32"})
    code = int(coding.codes(np.ones(1, np.float32))[0])
    one = Bracket(5, coding, code - 1, code)
    split = engine(SIZE, "float32")(x, y, (one, one))[2]
    assert len(split.near[0]) == len(split.near[1]) == 0
    assert split.num_inside == tuple(int((np.abs(v) == 1).sum()) for v in (x, y))
    wanted = truncated(x, y, 1.0, 1.0)
    assert split.clear == Sign(pytest.approx(wanted.total, rel=1e-12), wanted.count)


def test_buffers_hold_nothing_over_and_inputs_stay() -> None:
    coding = Coding.of({"F32"})
    brackets = bracket(coding, 0.3, 0.9), bracket(coding, 0.1, 0.2)
    chunk, results = Chunk(SIZE, "float32"), []
    for kind in ("normal", "largest", "equal", "none", "normal"):
        x, y = vectors(kind, "float32")
        x.setflags(write=False)
        y.setflags(write=False)
        results.append(chunk(x, y, brackets))
    (one, two), (first, last) = (r[:2] for r in (results[0], results[-1])), (results[0][2], results[-1][2])
    assert one == two
    assert isinstance(first, Split)
    assert isinstance(one[1], Sign)
    assert (first.clear, first.num_below, first.num_inside) == (last.clear, last.num_below, last.num_inside)
    np.testing.assert_array_equal(first.near, last.near)
