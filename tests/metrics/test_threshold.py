from __future__ import annotations

import numpy as np
import pytest

from vlmerge_cli.metrics import threshold
from vlmerge_cli.metrics.threshold import Bracket, Coding, Counts


def inside(x: np.ndarray, bracket: Bracket) -> np.ndarray:
    low, high = bracket.bounds
    return np.abs(x[(np.abs(x) > low) & (np.abs(x) <= high)])


def exact(x: np.ndarray, bracket: Bracket) -> tuple[float, int]:
    """The threshold as passes over x find it, and their number: those that count, and one that uses it."""
    for passes in range(2, 8):
        counts = sum((counted(part, bracket) for part in np.array_split(x, 7)), Counts())
        bracket = bracket.narrowed(counts)
        if bracket.is_exact:
            return bracket.threshold, passes
    raise AssertionError("it does not end")


def counted(x: np.ndarray, bracket: Bracket) -> Counts:
    counts = Counts()
    members = inside(x, bracket)
    counts.add(bracket, int((np.abs(x) <= bracket.bounds[0]).sum()), len(members), members)
    return counts


def plain(x: np.ndarray, k: int) -> float:
    return float(np.sort(np.abs(x))[k - 1]) if k else 0.0


def vectors(kind: str, wide: str, n: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {
        "normal": lambda: rng.standard_normal(n),
        "tied": lambda: rng.integers(-3, 4, n).astype(float),
        "equal": lambda: np.full(n, -0.7),
        "zeros": lambda: np.where(rng.random(n) < 0.5, 0.0, -0.0),
        "half zeros": lambda: rng.standard_normal(n) * (rng.random(n) < 0.5),
        "all scales": lambda: rng.standard_normal(n) * 10.0 ** rng.integers(-38, 38, n),
        "heavy tail": lambda: rng.standard_cauchy(n) ** 3,
        "subnormal": lambda: rng.standard_normal(n) * (1e-40 if wide == "float32" else 1e-310),
        "close": lambda: 1 + rng.standard_normal(n) * 1e-7,
        "sorted": lambda: np.sort(rng.standard_normal(n)),
        "two lumps": lambda: np.where(np.arange(n) < n // 2, 1e-9, 1.0) * rng.standard_normal(n),
        "in one place": lambda: np.where(np.arange(n) // 40 == 17, rng.standard_normal(n), 0.0),
        "one": lambda: np.array([3.5]),
    }[kind]().astype(wide)


KINDS = ["normal", "tied", "equal", "zeros", "half zeros", "all scales", "heavy tail", "subnormal", "close", "sorted"]
KINDS += ["two lumps", "in one place", "one"]
RATIOS = [0, 0.001, 0.3, 0.5, 1]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_is_the_sorted_one(kind: str, wide: str, ratio: float) -> None:
    x = vectors(kind, wide)
    k = int(ratio * len(x))
    found, passes = exact(x, threshold.anywhere(k, Coding.of({"F64" if wide == "float64" else "F32"})))
    assert found == plain(x, k)
    assert passes <= (5 if wide == "float64" else 3)


def halves(x: np.ndarray, coding: Coding, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every ``step``-th entry of two stretches in each hundredth of the vector."""
    parts = np.array_split(x, 200)
    return [(coding.codes(a[::step]), coding.codes(b[::step])) for a, b in zip(parts[::2], parts[1::2], strict=True)]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_only_saves_passes(kind: str, ratio: float) -> None:
    """Whatever the sample says; where it speaks for the vector, few lie inside and the first pass settles."""
    coding = Coding.of({"F32"})
    x = vectors(kind, "float32", n=400_000)
    k = int(ratio * len(x))
    guessed = threshold.guess(k, len(x), coding, halves(x, coding, 13))
    found, passes = exact(x, guessed)
    assert found == plain(x, k)
    assert passes <= 3
    if kind == "normal":
        assert len(inside(x, guessed)) < 15_000
    if kind == "normal" and ratio == 0.5:
        assert exact(x, threshold.guess(k, len(x), coding, halves(x, coding, 1)))[1] == 2


@pytest.mark.parametrize("sampled", [0.0, 1e-30, 0.3, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_misleads_costs_passes_alone(kind: str, sampled: float) -> None:
    coding = Coding.of({"F32"})
    x = vectors(kind, "float32")
    wrong = coding.codes(np.full(50, sampled, np.float32))
    for k in (1, len(x) // 2, len(x)):
        guessed = threshold.guess(k, len(x), coding, [(wrong, wrong)])
        found, passes = exact(x, guessed)
        assert found == plain(x, k)
        assert passes <= 4


def test_the_margin_grows_with_what_the_sample_leaves_open() -> None:
    """Where whole rows have a scale of their own, entries of one row tell less than as many of all rows."""
    rng = np.random.default_rng(0)
    coding = Coding.of({"F32"})
    x = rng.standard_normal(400_000).astype(np.float32)
    rows = (x.reshape(-1, 500) * rng.uniform(0.2, 5, (800, 1))).astype(np.float32).reshape(-1)
    k = len(x) // 2
    mixed, apart = (threshold.guess(k, len(x), coding, halves(v, coding, 13)) for v in (rng.permutation(rows), rows))
    assert len(inside(rows, apart)) > 2 * len(inside(rows, mixed))
    for bracket in (mixed, apart):
        assert bracket.bounds[0] < plain(rows, k) <= bracket.bounds[1]


def test_how_often_a_guess_misses() -> None:
    """Never in 300 samples, whose margins take in 2 % of the vector."""
    coding = Coding.of({"F32"})
    for seed in range(300):
        x = np.random.default_rng(seed).standard_normal(20_000).astype(np.float32)
        guessed = threshold.guess(10_000, len(x), coding, halves(x, coding, 3))
        assert guessed.bounds[0] < plain(x, 10_000) <= guessed.bounds[1]
        assert len(inside(x, guessed)) < 3000


@pytest.mark.parametrize("names", ["F16", "BF16", "F16 BF16", "F16 F32", "BF16 F64"])
def test_narrow_types_and_mixtures(names: str) -> None:
    from tests.helpers import NUMPY

    dtypes = set(names.split())
    rng = np.random.default_rng(0)
    wide = "float64" if "F64" in dtypes else "float32"
    scale = 10.0 ** rng.integers(-8, 4, 999)  # float16's subnormals among them
    x = np.concatenate([(rng.standard_normal(999) * scale).astype(NUMPY[n]).astype(wide) for n in sorted(dtypes)])
    found, passes = exact(x, threshold.anywhere(len(x) // 2, Coding.of(dtypes)))
    assert found == plain(x, len(x) // 2)
    if dtypes <= {"F16", "BF16"}:
        assert passes == 2, "one to count, one to use the threshold"


def test_codes_sort_as_magnitudes_do() -> None:
    for wide, dtype in (("float32", "F32"), ("float64", "F64")):
        coding = Coding.of({dtype})
        x = vectors("all scales", wide)
        codes = coding.codes(x)
        order = np.argsort(codes, kind="stable")
        assert (np.diff(np.abs(x[order])) >= 0).all()
        assert [coding.value(int(code)) for code in codes[:50]] == np.abs(x[:50]).tolist()
        assert coding.value(coding.top) == np.inf
        assert coding.value(-1) == -1


def test_k_0_leaves_every_magnitude_above_0() -> None:
    for bracket in (threshold.anywhere(0, Coding.of({"F32"})), threshold.guess(0, 9, Coding.of({"F32"}), [])):
        assert bracket.is_exact
        assert bracket.narrowed(Counts()) == bracket
        assert bracket.threshold == 0
