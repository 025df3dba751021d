"""What ``make gpu`` runs, on the CPU: every part, its limits, and what is left of one that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import agree, gpu_model, harness, latest, quarter, render
from benchmarks.quarter import Part
from vlmerge_cli.methods import METHODS
from vlmerge_cli.tasks import TASKS


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMERGE_BENCH_RUNS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu_model, "WORK", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_device_agrees_with_itself(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "STEPS", 1)
    monkeypatch.setattr(agree, "NUM_PAIRS", 16)
    assert agree.main([]) == 0
    rows = latest.latest("gpu-agreement")
    assert all(row.values["apart"] == 0 for row in rows if not row.at["row"].startswith("pre-training"))
    named = {row.at["row"] for row in rows}
    assert {f"merge, {name}" for name in METHODS} <= named
    assert {f"fine-tuning, {name}" for name in TASKS} <= named
    assert "| merge, regmean | 0e+00 |" in render.table("gpu-agreement")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["training", "grams"])
def test_the_model_has_its_rows(part: str, results: Path) -> None:
    {"training": gpu_model.training, "grams": gpu_model.grams}[part]("cpu")
    rows = latest.latest(f"gpu-{part}")
    works = {row.at["work"] for row in rows}
    if part == "training":
        assert works == {"loader", "batch 8, bfloat16", "batch 32, bfloat16", "batch 8, float32"}
    else:
        assert works == {"float32", "bfloat16", "whole command"}
        assert [row.at["row"] for row in rows if row.at["work"] == "whole command"] == ["32 pairs", "64 pairs"]
    assert all(row.values["wall_seconds"] > 0 for row in rows)


def test_a_part_that_fails_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "broken": Part("nothing", 20, ("no_such_module",)),
        "endless": Part("nothing", 4, ("http.server", "0", "--bind", "127.0.0.1")),
        "late": Part("nothing", 1, ("platform",)),
        "well": Part("what this is", 20, ("platform",)),
    }
    monkeypatch.setattr(quarter, "PARTS", parts)
    monkeypatch.setattr(quarter, "LEAST_SECONDS", 1)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("VLMERGE_BENCH", str(tmp_path))
    assert quarter.main([]) == 1
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    ends = {line[0]: " ".join(line[1:-2]) for line in said if line[0] in parts and line[-1] == "s"}
    assert ends == {"broken": "with 1", "endless": "at its limit", "late": "not begun", "well": "well"}
    assert "no_such_module" in (tmp_path / "out" / "log.txt").read_text()


def test_parts_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert quarter.main(["works", "wrong"]) == 2
    assert "no such part: wrong" in capsys.readouterr().out
