"""Tables, goals and the figure from made-up records."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, goals, harness, latest, merge, render

PAGE = "# Page\n" + "".join(
    f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in ("goals", "merge", "growth", "sums")
)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")


def row(walls: Sequence[float], peak_mib: float = 50.0, bytes_in: int = 10**9) -> dict[str, Any]:
    times = {"wall_low": min(walls), "wall_high": max(walls), "wall_seconds": sorted(walls)[len(walls) // 2]}
    return {
        **times,
        "walls": list(walls),
        "cpu_seconds": 1.0,
        "peak_mib": peak_mib,
        "bytes_in": bytes_in,
        "bytes_out": 10**9,
    }


def test_a_goal_is_held_against_the_median_of_paired_ratios(tmp_path: Path) -> None:
    rows = {merge.OURS: row((1, 2, 3)), merge.LIMIT: row((0.5, 1, 0.1)), merge.MERGEKIT: row((10, 20, 30), 900.0)}
    harness.save("merge", rows, {"work": "W1"})
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    render.render(page)
    text = page.read_text()
    assert (
        "| W1 interpolation | C program doing the same | at most 3.5 times its time | 2 times its time | yes |" in text
    )
    assert "| W1' | mergekit linear | at least 12 times faster | 10 times faster | no |" in text
    assert "| W1' | mergekit linear | at least 20 times less memory | 18 times less memory | no |" in text
    assert "| W1 | mergekit-pytorch linear | 20.00 (10.00-30.00) | 10.00 |" in text
    assert re.search(r"<!-- sums -->\nold\n", text), "a table without records stays"


def test_rows_that_the_last_run_did_not_save_are_gone() -> None:
    harness.save("merge", {"a": row((1,)), "gone": row((1,))}, {"work": "W1", "run": "2026-01-01"})
    harness.save("merge", {"b": row((1,))}, {"work": "W2", "run": "2026-01-02"})
    harness.save("merge", {"a": row((2,))}, {"work": "W1", "run": "2026-01-03"})
    assert [(one.at["work"], one.at["row"], one.values["wall_seconds"]) for one in latest.latest("merge")] == [
        ("W1", "a", 2), ("W2", "b", 1),
    ]  # fmt: skip


def test_growth_is_fitted_and_drawn(tmp_path: Path) -> None:
    for size in (1, 2, 4, 12):
        values = {name: row((0.5 + 2 * size,), 40.0 + (size == 12), size * 10**9) for name in figures.LINES}
        harness.save("growth", values, {"work": f"{size} GB"})
    line = latest.fit(*latest.growth("merge, 2 threads")[:2])
    assert line == pytest.approx((0.5, 2, 1))
    assert goals.swelling("merge")() == 1, "12 GB is beyond what the goal speaks of"
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    render.render(page)
    assert "| 12.00 | 24.50 | 24.50 | 24.50 | 24.50 | 41 |" in page.read_text()
    assert "| s/GB | 2.00 | 2.00 |" in page.read_text()


def test_the_same_records_give_the_same_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    harness.save("merge", {"vlmerge merge": row((1, 1)), "peer": row((4, 6))}, {"work": "W1"})
    for size in (1, 2):
        harness.save("growth", {"merge, 2 threads": row((size,), bytes_in=size * 10**9)}, {"work": f"{size} GB"})
    for name in ("one.svg", "two.svg"):
        figures.draw(tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "W1: peer" in (tmp_path / "one.svg").read_text()
