from __future__ import annotations

from pathlib import Path

import pytest

from vlmerge_cli.errors import DataError
from vlmerge_cli.records import Record, append, read

ROWS = [
    Record("score", {"model": "é"}, {"vqa": 0.5}),
    Record("run", {"step": 1}),
    Record("score", {"model": "b"}, {"vqa": 1}),
]


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    for row in ROWS:
        append(path, row)
    assert list(read(path)) == ROWS
    assert list(read(path, "score")) == [ROWS[0], ROWS[2]]
    assert len(path.read_text().splitlines()) == 3


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert list(read(tmp_path / "r.jsonl")) == []


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_line_is_left_out_and_written_over(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for row in ROWS[:2]:
        append(path, row)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert list(read(path)) == ROWS[:1]
    append(path, ROWS[2])
    assert list(read(path)) == [ROWS[0], ROWS[2]]


def test_a_torn_first_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"kind": "sc')
    assert list(read(path)) == []
    append(path, ROWS[0])
    assert list(read(path)) == ROWS[:1]


@pytest.mark.parametrize("line", ["{", "[]", "null", "5", '{"kind": "a", "more": 1}', "{}", ""])
def test_a_finished_line_that_is_no_record(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(ROWS[0].to_json() + "\n" + line + "\n")
    with pytest.raises(DataError, match="line 2 is not a record"):
        list(read(path))
