"""Whole processes timed side by side: alternating runs, medians, the system's own accounting of each."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmerge_cli import console, records
from vlmerge_cli.records import Record

RESULTS = Path(__file__).parent / "results"
WORK = Path(os.environ.get("VLMERGE_BENCH", "/tmp/vlmerge-bench"))
VLMERGE = [str(Path(sys.executable).with_name("vlmerge"))]
PEERS = Path(os.environ.get("VLMERGE_PEERS", str(WORK / "peers"))) / "bin"


@dataclass(frozen=True)
class Run:
    """One finished process: seconds on the clock and of processor time, and its largest resident size."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Median:
    """Of several runs, with the spread of the time."""

    wall_seconds: float
    wall_low: float
    wall_high: float
    cpu_seconds: float
    peak_bytes: int
    num_runs: int


def time_process(command: Sequence[str]) -> Run:
    """Run a command to its end, output thrown away. Raises RuntimeError with its last words when it fails."""
    log = WORK / "last-output.txt"
    with open(log, "wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read_text()[-600:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def compare(
    what: str, commands: Mapping[str, Sequence[str]], inputs: Sequence[Path], num_runs: int = 5
) -> dict[str, Median]:
    """Medians of alternating runs, A B C A B C ..., inputs read into the page cache before each round."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(num_runs + 1):  # the first round only warms up
        for name, command in commands.items():
            warm(inputs)
            run = time_process(command)
            console.say(f"{what}: {name} {run.wall_seconds:.3f} s, {console.size(run.peak_bytes)}")
            if number:
                runs[name].append(run)
    return {name: _median(found) for name, found in runs.items()}


def warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache, which this kernel gives up after a while."""
    block = bytearray(8 << 20)
    for path in paths:
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            with open(file, "rb", buffering=0) as opened:
                while opened.readinto(block):
                    pass


def save(name: str, rows: Mapping[str, Median], facts: Mapping[str, object]) -> None:
    """Append one record per row to results/NAME.jsonl, with the machine it came from."""
    for row, median in rows.items():
        values = {
            "wall_seconds": round(median.wall_seconds, 4),
            "wall_low": round(median.wall_low, 4),
            "wall_high": round(median.wall_high, 4),
            "cpu_seconds": round(median.cpu_seconds, 4),
            "peak_mib": round(median.peak_bytes / 2**20, 1),
        }
        at = {"row": row, "num_runs": median.num_runs, **facts, **machine()}
        records.append(RESULTS / f"{name}.jsonl", Record(name, at, values))


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def fresh(name: str) -> Path:
    """A path in the work folder at which nothing is."""
    path = WORK / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def _median(runs: list[Run]) -> Median:
    walls = [run.wall_seconds for run in runs]
    return Median(
        statistics.median(walls),
        min(walls),
        max(walls),
        statistics.median(run.cpu_seconds for run in runs),
        round(statistics.median(run.peak_bytes for run in runs)),
        len(runs),
    )
