"""A table of the pairs near a threshold gives what all pairs give, whichever threshold it turns out to be."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.helpers import NUMPY
from vlmerge_cli.metrics import sign, tally
from vlmerge_cli.metrics.select import Bracket, Coding
from vlmerge_cli.metrics.tally import Tally

Brackets = tuple[Bracket, Bracket]


def vectors(dtype: str, n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n)
    y = 0.5 * x + rng.standard_normal(n)
    return tuple(v.astype(NUMPY[dtype]).astype(np.float32) for v in (x, y))  # type: ignore[return-value]


def brackets_of(dtype: str, *spans: tuple[float, int]) -> Brackets:
    """From the code of a magnitude on, so many codes wide."""
    coding = Coding.of({dtype})
    lows = [int(coding.codes(np.array([magnitude], np.float32))[0]) for magnitude, _ in spans]
    x, y = (Bracket(1, coding, low, low + width) for low, (_, width) in zip(lows, spans, strict=True))
    return x, y


def is_near(brackets: Brackets, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inside = [
        (np.abs(v) > bracket.bounds[0]) & (np.abs(v) <= bracket.bounds[1])
        for v, bracket in zip((x, y), brackets, strict=True)
    ]
    return inside[0] | inside[1]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("widths", [(1, 4), (3, 2), (tally.MOST_CODES, 5)])
def test_every_threshold_in_the_brackets(dtype: str, widths: tuple[int, int]) -> None:
    x, y = vectors(dtype)
    brackets = brackets_of(dtype, (0.5, widths[0]), (0.75, widths[1]))
    near = is_near(brackets, x, y)
    found = Tally.empty(brackets)
    for part in np.array_split(np.flatnonzero(near), 3):
        found.add(x[part], y[part], brackets)
    assert found.counts.sum() == np.count_nonzero(near) > 0
    steps = [range(bracket.low, bracket.high) for bracket in brackets]
    for low_x, low_y in product(*steps):
        settled = tuple(
            Bracket(1, bracket.coding, low, low + 1) for bracket, low in zip(brackets, (low_x, low_y), strict=True)
        )
        wanted = sign.truncated(x[near], y[near], settled[0].threshold, settled[1].threshold)
        one = found.truncated(brackets, settled)  # type: ignore[arg-type]
        assert one.count == wanted.count
        assert one.total == pytest.approx(wanted.total, rel=1e-13)


def test_histograms_count_the_codes_of_each_side() -> None:
    x, y = vectors("BF16")
    brackets = brackets_of("BF16", (0.5, 4), (0.75, 6))
    found = Tally.empty(brackets)
    found.add(x, y, brackets)
    for values, bracket, histogram in zip((x, y), brackets, found.histograms, strict=True):
        codes = bracket.coding.codes(values).astype(int)
        assert histogram.tolist() == [np.count_nonzero(codes == bracket.low + 1 + i) for i in range(bracket.width)]


def test_parts_add_up() -> None:
    x, y = vectors("F16")
    brackets = brackets_of("F16", (0.5, 20), (0.75, 20))
    whole, one, two = (Tally.empty(brackets) for _ in range(3))
    whole.add(x, y, brackets)
    one.add(x[:1000], y[:1000], brackets)
    two.add(x[1000:], y[1000:], brackets)
    both = one + two
    assert (both.counts == whole.counts).all()
    np.testing.assert_allclose(both.totals, whole.totals, rtol=1e-13)


def test_what_fits() -> None:
    assert tally.fits(brackets_of("BF16", (0.5, tally.MOST_CODES), (0.5, 1)))
    assert not tally.fits(brackets_of("BF16", (0.5, tally.MOST_CODES + 1), (0.5, 1)))
