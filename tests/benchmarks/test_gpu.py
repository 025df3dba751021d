"""What is measured on a GPU, run with torch on the CPU in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import distance, gpu, harness, latest, limits, render, solve, sums
from fixtures.build import SIZES, build
from tests.helpers import save


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything of a size for tests."""
    work = tmp_path / "work"
    work.mkdir()
    for module in (harness, distance, limits):
        monkeypatch.setattr(module, "WORK", work)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness.os, "sync", lambda: None)
    monkeypatch.setenv("VLMERGE_BENCH_RUNS", "1")
    monkeypatch.setattr(gpu, "COPY_BYTES", 1 << 22)
    monkeypatch.setattr(limits, "WRITE_BYTES", 1 << 22)
    monkeypatch.setattr(gpu, "WIDTH", 512)
    monkeypatch.setattr(sums, "WIDTHS", {"qkv": 300, "fc2": 40})
    monkeypatch.setattr(sums, "NUM_TOKENS", 700)
    monkeypatch.setattr(solve, "SHAPES", ((9, 5), (4, 7)))
    one, many = tmp_path / "one.safetensors", tmp_path / "many"
    build(one, SIZES["tiny"], "F32", "specific", 0, 10**9)
    build(many, SIZES["tiny"], "BF16", "specific", 0, 200_000)
    return tmp_path


def test_every_work_has_its_rows(small: Path) -> None:
    gpu.measure("cpu", {"W1": lambda: small / "one.safetensors", "W2": lambda: small / "many"})
    rows = latest.latest("gpu")
    rows_of = {"W1": 3, "W2": 3, "W3": 3, "W4, Grams": 2, "W4, solve": 2}
    assert [row.at["work"] for row in rows] == [work for work, number in rows_of.items() for _ in range(number)]
    assert all(row.values["wall_seconds"] > 0 and row.values["share_of_limit"] >= 0 for row in rows)
    assert [row.values["apart"] for row in rows[:9]] == [0] * 9, "the same device"
    assert all(0 < row.values["apart"] < 1e-6 for row in rows[9:11])
    assert all(row.values["apart"] < 1e-12 for row in rows[11:])
    assert not list((small / "work").glob("out*"))
    assert "| W4, solve | RegMean: Cholesky |" in render.table("gpu")
    assert render.table("gpu-rates").count("GB/s") == 5


def test_the_largest_difference_is_relative_to_its_tensor(tmp_path: Path) -> None:
    a = {"x": np.array([1.0, 100]), "y": np.array([1e-3, 2e-3], np.float32), "z": np.zeros(2), "e": np.zeros(0)}
    b = {**a, "x": np.array([2.0, 100]), "y": np.array([1e-3, 1e-3], np.float32)}
    one, other = (save(tmp_path / f"{name}.safetensors", tensors) for name, tensors in (("a", a), ("b", b)))
    assert gpu.largest_difference(one, one) == 0
    assert gpu.largest_difference(one, other) == pytest.approx(1)
    assert gpu.largest_difference(other, one) == pytest.approx(0.5)


def test_the_published_way_solves_the_same() -> None:
    of = solve.group(0, 9, 5, 1.0)
    found = solve.inverted(gpu.moved(of, "cpu")).numpy()
    np.testing.assert_allclose(found, solve.by_inverse([solve.whole(of)])[0], rtol=1e-12)
