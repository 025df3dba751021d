"""Whole processes timed side by side: alternating runs, medians, the system's own accounting of each."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmerge_cli import console, records
from vlmerge_cli.records import Record
from vlmerge_cli.study import machine as machines

RESULTS = Path(os.environ.get("VLMERGE_RESULTS", str(Path(__file__).parent / "results")))
WORK = Path(os.environ.get("VLMERGE_BENCH", "/tmp/vlmerge-bench"))
SCRIPT = Path(sys.executable).with_name("vlmerge")
VLMERGE = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "vlmerge_cli"]
PEERS = Path(os.environ.get("VLMERGE_PEERS", str(WORK / "peers"))) / "bin"
LAUNCH = Path(__file__).with_name("launch.py")
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Command:
    """A process to time. What it reads is in memory when it starts; what it wrote is removed when it ends."""

    words: Sequence[str]
    inputs: tuple[Path, ...] = ()
    output: Path | None = None


@dataclass(frozen=True)
class Run:
    """One finished process: seconds on the clock and of processor time, its largest resident size, what it said."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    bytes_out: int
    said: str


@dataclass(frozen=True)
class Row:
    """Several runs of one command."""

    runs: tuple[Run, ...]
    bytes_in: int

    @property
    def said(self) -> str:
        return self.runs[-1].said

    def values(self) -> dict[str, Any]:
        """As a record keeps them. ``walls`` are in the order of the rounds, so that rows can be paired."""
        walls = [round(run.wall_seconds, 4) for run in self.runs]
        return {
            **spread(walls),
            "wall_seconds": round(statistics.median(walls), 4),
            "cpu_seconds": round(statistics.median(run.cpu_seconds for run in self.runs), 4),
            "peak_mib": round(max(run.peak_bytes for run in self.runs) / 2**20, 1),
            "bytes_in": self.bytes_in,
            "bytes_out": self.runs[-1].bytes_out,
        }


def num_runs(usual: int) -> int:
    """How many runs a median is of: $VLMERGE_BENCH_RUNS, or the usual number."""
    return int(os.environ.get("VLMERGE_BENCH_RUNS", usual))


def compare(what: str, commands: Mapping[str, Command], runs: int = 5, warm_up: bool = True) -> dict[str, Row]:
    """Alternating runs, A B C A B C ...; with ``warm_up`` a first round is not counted."""
    WORK.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(-1 if warm_up else 0, num_runs(runs)):
        for name, command in commands.items():
            run = time_process(command)
            console.say(f"{what}: {name} {run.wall_seconds:.3f} s, {console.size(run.peak_bytes)}")
            if number >= 0:
                found[name].append(run)
    return {name: Row(tuple(its), size(*commands[name].inputs)) for name, its in found.items()}


def time_process(command: Command) -> Run:
    """Run a command to its end. Raises RuntimeError with its last words when it fails."""
    remove(command.output)
    os.sync()  # what earlier runs left to write must not be written during this one
    for path in command.inputs:
        read(path)
    log = WORK / "last-output.txt"
    launch = [sys.executable, "-I", "-S", str(LAUNCH), str(log), *command.words]
    done = subprocess.run(launch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    wall, cpu, peak, code = json.loads(done.stdout)
    said = log.read_text(errors="replace")
    if code:
        raise RuntimeError(f"{' '.join(command.words)} ended with {code}: {said[-600:]}")
    written = size(command.output) if command.output else 0
    remove(command.output)
    return Run(wall, cpu, peak, written, said)


def files_of(path: Path) -> list[Path]:
    """The weights of a checkpoint: a file, or a folder's."""
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def size(*paths: Path) -> int:
    return sum(file.stat().st_size for path in paths for file in files_of(path))


def read(path: Path) -> None:
    """Bring a checkpoint into the page cache, which this kernel gives up after a while."""
    block = bytearray(BLOCK_BYTES)
    for file in files_of(path):
        with open(file, "rb", buffering=0) as opened:
            while opened.readinto(block):
                pass


def remove(path: Path | None) -> None:
    if path is not None and path.is_dir():
        shutil.rmtree(path)
    elif path is not None:
        path.unlink(missing_ok=True)


def save(name: str, rows: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> None:
    """Append one record a row to results/NAME.jsonl; all carry the time of this call and the machine."""
    run = time.strftime("%Y-%m-%dT%H:%M:%S")
    for row, values in rows.items():
        at = {"row": row, "run": run, **machine(), **(facts or {})}
        records.append(RESULTS / f"{name}.jsonl", Record(name, at, values))


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    return machines.machine("cpu")


def spread(walls: Sequence[float]) -> dict[str, Any]:
    """Wall seconds of several turns, as a record keeps them."""
    return {
        "wall_seconds": statistics.median(walls),
        "wall_low": min(walls),
        "wall_high": max(walls),
        "walls": list(walls),
    }
