"""What is recorded of a process is that process's own."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as every
from benchmarks import harness
from benchmarks.harness import Command, compare

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(harness, "WORK", tmp_path / "work")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness.os, "sync", lambda: None)  # of the whole machine, whatever else it writes
    monkeypatch.setenv("VLMERGE_BENCH_RUNS", "2")
    return tmp_path


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_runs_alternate_after_a_round_that_warms_up(work: Path) -> None:
    log = work / "order"
    commands = {name: Command(python(f"open({str(log)!r}, 'a').write({name!r})")) for name in "AB"}
    rows = compare("order", commands)
    assert log.read_text() == "ABABAB"
    assert len(rows["A"].values()["walls"]) == 2


def test_an_output_is_new_in_every_run_measured_and_removed(work: Path) -> None:
    output, source = work / "out.safetensors", work / "in.safetensors"
    source.write_bytes(b"12345")
    command = Command(python(f"open({str(output)!r}, 'x').write('abc'); print('said')"), (source,), output)
    row = compare("output", {"A": command})["A"]
    assert (row.values()["bytes_in"], row.values()["bytes_out"], row.said) == (5, 3, "said\n")
    assert not output.exists()


def test_the_peak_is_not_that_of_the_process_that_measures() -> None:
    held = np.ones(100 << 20, np.uint8)
    row = compare("peak", {"small": Command(python("pass")), "large": Command(python("b'1' * (50 << 20)"))})
    assert row["small"].values()["peak_mib"] < 40 < 50 < row["large"].values()["peak_mib"] < 90
    assert held[-1]


def test_a_failure_tells_the_last_words() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        compare("failure", {"A": Command(python("raise SystemExit('no such thing')"))})


def test_a_run_of_all_parts_goes_on_with_what_is_left(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.WORK.mkdir()
    monkeypatch.setattr(every, "WORK", harness.WORK)
    monkeypatch.setattr(every, "DONE", harness.WORK / "done")
    monkeypatch.setattr(every, "PARTS", ("one", "two", "three"))
    ran: list[str] = []
    broken = {"benchmarks.two"}

    class Done:
        def __init__(self, words: list[str], **_: object) -> None:
            ran.append(words[-1])
            self.returncode = int(words[-1] in broken)

    monkeypatch.setattr(every.subprocess, "run", Done)
    assert every.main([]) == 1
    assert ran == ["benchmarks.one", "benchmarks.two", "benchmarks.three", "benchmarks.render"]
    ran.clear()
    broken.clear()
    assert every.main([]) == 0
    assert ran == ["benchmarks.two", "benchmarks.render"]
    ran.clear()
    assert every.main([]) == 0
    assert len(ran) == 4
    assert every.main(["four"]) == 2
