from __future__ import annotations

import numpy as np
import pytest

from vlmerge_cli.metrics import select
from vlmerge_cli.metrics.select import Bracket


def exact(chunks: list[np.ndarray], ratio: float, dtypes: set[str], few: int | None = None) -> tuple[float, int]:
    """The threshold as the engine finds it, and the number of passes."""
    bracket = select.start(sum(map(len, chunks)), ratio, dtypes)
    passes = 0
    while not bracket.is_small:
        counts = [bracket.histogram(select.codes_of(chunk)) for chunk in chunks]
        bracket = bracket.narrowed(np.sum(counts, axis=0))
        passes += 1
    if not bracket.is_exact:
        low, high = bracket.bounds()
        codes = np.concatenate([select.codes_of(chunk) for chunk in chunks])
        bracket = bracket.settle(codes[(codes >= low) & (codes <= high)])
    wide = "float64" if "F64" in dtypes else "float32"
    return (-1.0 if bracket.threshold_code < 0 else select.value_of(bracket.threshold_code, wide)), passes


def plain(x: np.ndarray, ratio: float) -> float:
    k = int(ratio * len(x))
    return float(np.sort(np.abs(x))[k - 1]) if k else -1.0


def vectors(kind: str, wide: str, n: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {
        "normal": lambda: rng.standard_normal(n),
        "tied": lambda: rng.integers(-3, 4, n).astype(float),
        "equal": lambda: np.full(n, -0.7),
        "zeros": lambda: np.where(rng.random(n) < 0.5, 0.0, -0.0),
        "half zeros": lambda: rng.standard_normal(n) * (rng.random(n) < 0.5),
        "all scales": lambda: rng.standard_normal(n) * 10.0 ** rng.integers(-38, 38, n),
        "subnormal": lambda: rng.standard_normal(n) * (1e-40 if wide == "float32" else 1e-310),
        "close": lambda: 1 + rng.standard_normal(n) * 1e-7,
        "one": lambda: np.array([3.5]),
    }[kind]().astype(wide)


KINDS = ["normal", "tied", "equal", "zeros", "half zeros", "all scales", "subnormal", "close", "one"]


@pytest.mark.parametrize("few", [0, 5, 1 << 20])
@pytest.mark.parametrize("ratio", [0, 0.001, 0.3, 0.5, 1])
@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_is_the_sorted_one(
    kind: str, wide: str, ratio: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "FEW", few)
    x = vectors(kind, wide)
    found, passes = exact(np.array_split(x, 7), ratio, {"F64" if wide == "float64" else "F32"})
    assert found == plain(x, ratio)
    assert passes <= (4 if wide == "float64" else 2)


@pytest.mark.parametrize("names", ["F16", "BF16", "F16 BF16", "F16 F32", "BF16 F64"])
def test_narrow_types_and_mixtures(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers import NUMPY

    monkeypatch.setattr(select, "FEW", 0)
    dtypes = set(names.split())
    rng = np.random.default_rng(0)
    wide = "float64" if "F64" in dtypes else "float32"
    scale = 10.0 ** rng.integers(-8, 4, 999)  # float16's subnormals among them
    chunks = [(rng.standard_normal(999) * scale).astype(NUMPY[name]).astype(wide) for name in sorted(dtypes)]
    found, passes = exact(chunks, 0.5, dtypes)
    assert found == plain(np.concatenate(chunks), 0.5)
    if dtypes <= {"F16", "BF16"}:
        assert passes == 1


def test_codes_sort_as_magnitudes_do() -> None:
    for wide in ("float32", "float64"):
        x = vectors("all scales", wide)
        order = np.argsort(select.codes_of(x), kind="stable")
        assert (np.diff(np.abs(x[order])) >= 0).all()
        assert [select.value_of(int(code), wide) for code in select.codes_of(x[:50])] == np.abs(x[:50]).tolist()


def test_histograms_of_chunks_add_up() -> None:
    bracket = select.start(4000, 0.5, {"F32"})
    x = vectors("normal", "float32")
    parts = [bracket.histogram(select.codes_of(part)) for part in np.array_split(x, 9)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), bracket.histogram(select.codes_of(x)))


def test_no_threshold_for_k_0() -> None:
    bracket = select.start(1, 0.5, {"F32"})
    assert bracket.is_exact
    assert bracket.threshold_code == -1
    assert bracket.narrowed(np.zeros(4, np.int64)) == bracket
    assert isinstance(bracket, Bracket)
