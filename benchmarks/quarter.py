"""Everything that a quarter of an hour with a GPU can tell, most important first: ``make gpu``.

    python -m benchmarks.quarter [PART ...]

Each part is a process with a time limit of its own; what it found is saved row by row, so a part that fails or is
stopped costs nothing but itself, and naming parts runs just those. Without a GPU all parts run at small sizes: a
rehearsal. Results go to $OUT (default: a folder in the work folder) and from there, by hand, into results/.
On a machine without network the missing packages come along as wheels: ``make wheels`` gathers them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import WORK
from vlmerge_cli import devices

ROOT = Path(__file__).parents[1]
#: Inputs are made here in the background: memory, where a machine has enough of it, so that no disk is measured.
SHARED_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 40 << 30
PYTHON = [sys.executable, "-m"]


@dataclass(frozen=True)
class Part:
    """What is run, what it answers, and the most seconds it may take on a GPU."""

    answers: str
    limit_seconds: int
    words: tuple[str, ...]


PARTS = {
    "tests": Part("do the GPU's tests pass", 150, ("pytest", "-m", "gpu", "-q", "-n", "8", "-p", "no:cacheprovider")),
    "agree": Part("does everything agree with the CPU", 120, ("benchmarks.agree",)),
    "works": Part("W1 to W4 beside copies and arithmetic", 150, ("benchmarks.gpu", "rehearse")),
    "training": Part("pre-training base, share of the matrix rate", 150, ("benchmarks.gpu_model", "training")),
    "grams": Part("Grams of base, with many pairs", 90, ("benchmarks.gpu_model", "grams")),
    "study": Part("the study, as far as it gets", 120, ("vlmerge_cli", "study", "--preset", "gpu")),
}  # fmt: skip
STUDY_REHEARSAL = (
    "--preset", "quick", "--part", "seeding", "--set", "steps=20", "--set", "vision_steps=5", "--set", "shapes.train=64"
)  # fmt: skip


def main(names: list[str]) -> int:
    on_gpu = devices.has_gpu()
    out = Path(os.environ.get("OUT", WORK / "quarter"))
    out.mkdir(parents=True, exist_ok=True)
    work = _work_folder()
    settings = {**os.environ, "VLMERGE_RESULTS": str(out), "VLMERGE_BENCH": str(work), "PYTHONUNBUFFERED": "1"}
    settings["XDG_CACHE_HOME"] = str(work / "cache")
    if not on_gpu:
        settings |= {"VLMERGE_BENCH_RUNS": "1"}
    _show([("part", "answers", "at most")] + [(n, p.answers, f"{p.limit_seconds} s") for n, p in PARTS.items()])
    inputs = None
    if "works" in (names or PARTS):
        inputs = subprocess.Popen([*PYTHON, "benchmarks.gpu", "inputs", "rehearse"], cwd=ROOT, env=settings)
    end = time.monotonic() + float(os.environ.get("SECONDS_LEFT", "inf"))
    rows = []
    for name in names or PARTS:
        if name == "works" and inputs is not None:
            inputs.wait()
        started = time.monotonic()
        ended = _run(
            name, on_gpu, out, settings, min(PARTS[name].limit_seconds / (1 if on_gpu else 3), end - started), work
        )
        rows.append((name, ended, f"{time.monotonic() - started:.0f} s"))
        print(*rows[-1], flush=True)
    if inputs is not None:
        inputs.wait()
    _show([("part", "ended", "took"), *rows])
    return 0 if all(ended == "well" for _, ended, _ in rows) else 1


def _run(name: str, on_gpu: bool, out: Path, settings: dict[str, str], limit: float, work: Path) -> str:
    """How a part ended. All it says goes to the log."""
    if limit < 5:
        return "not begun"
    words = [*PYTHON, *PARTS[name].words]
    if name == "tests":
        words += [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    elif name == "study":
        words = [*words, "--out", str(work / "study")] + ([] if on_gpu else [*STUDY_REHEARSAL])
    with open(out / "log.txt", "ab") as log:
        log.write(f"\n=== {name}: {' '.join(words[1:])}\n".encode())
        log.flush()
        process = subprocess.Popen(words, cwd=ROOT, env=settings, stdout=log, stderr=log)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            return "at its limit"
    return "well" if code == 0 or (name == "tests" and code == 5) else f"with {code}"


def _work_folder() -> Path:
    if "VLMERGE_BENCH" not in os.environ and SHARED_MEMORY.is_dir():
        room = os.statvfs(SHARED_MEMORY)
        if room.f_bavail * room.f_frsize >= NEEDED_BYTES:
            return SHARED_MEMORY / "vlmerge-bench"
    return WORK


def _show(rows: list[tuple[str, str, str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
