"""Records from a stranger: nothing is written elsewhere, no markup of theirs is alive, and no traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import fails, ok

MARKUP = '"><script>alert(1)</script>'


def rows(folder: Path, *found: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def distances(by: str, pair: str = "v,l", checkpoint: str = "c") -> list[dict[str, Any]]:
    values = {"l2": 1.0, "cosine": 0.5, "ssd": 0.1, "tssd": 0.2, "num_weights": 5}
    return [
        {"kind": "distance", "at": {"pair": pair, "by": by, "where": where, "checkpoint": checkpoint}, "values": values}
        for where in ("all", "0", "=1+1")
    ]


def test_nothing_is_written_outside_the_report(tmp_path: Path) -> None:
    folder = rows(tmp_path / "deep/er/run", *distances("x/../../../../OUT"))
    ok("report", folder)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and folder / "report" not in path.parents]
    assert outside == [folder / "x.jsonl"]


def test_no_markup_of_records_is_alive(tmp_path: Path) -> None:
    folder = rows(tmp_path, *distances(MARKUP, MARKUP, f"{MARKUP}[link](http://x)"))
    ok("report", folder)
    page = (folder / "report/index.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert 'id="by-&quot;' not in page
    text = (folder / "report/report.md").read_text()
    assert "<script>" not in text
    assert "[link](" not in text.replace("\\[link\\](", "")


def test_cells_start_no_formula(tmp_path: Path) -> None:
    folder = rows(tmp_path, *distances("row"))
    ok("report", folder)
    table = (folder / "report/tables/distances-v-l.csv").read_text()
    assert "\n'=1+1," in table


def test_mathematics_is_shown_as_text(tmp_path: Path) -> None:
    row = {"kind": "train", "at": {"step": 1}, "values": {"$\\frac{1$": 1.0}}
    ok("report", rows(tmp_path, row, {**row, "at": {"step": 2}}))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"kind": "train", "at": {"step": "x"}, "values": {"loss": 1.0}}, "step is 'x', not a number"),
        ({"kind": "train", "at": {"step": 1, "phase": "\ud800"}, "values": {"loss": 1.0}}, "not valid Unicode"),
        ({"kind": "train", "at": [1], "values": {}}, "'at' is list"),
        ({"kind": "train", "at": {}, "values": 3}, "'values' is int"),
        ({"kind": 7, "at": {}, "values": {}}, "its kind is int"),
        ([1], "not a JSON object"),
    ],
)
def test_a_row_that_is_no_record_is_named(row: Any, words: str, tmp_path: Path) -> None:
    good = {"kind": "train", "at": {"step": 1}, "values": {"loss": 1.0}}
    error = fails(1, "report", rows(tmp_path, good, row))
    assert "line 2 is not a record" in error
    assert words in error
    assert "x.jsonl" in error


def test_values_that_no_page_can_show(tmp_path: Path) -> None:
    row = distances("row")[0]
    error = fails(1, "report", rows(tmp_path, {**row, "values": {"l2": "much", "num_weights": 1}}))
    assert "no page can show" in error


def test_a_pipe_is_no_file_of_records(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    assert "not a file" in fails(1, "report", tmp_path)
