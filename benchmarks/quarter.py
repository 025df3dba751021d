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
#: A part is not begun with less time than this.
LEAST_SECONDS = 5.0


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


@dataclass(frozen=True)
class Session:
    """Where parts run, and with what around them."""

    on_gpu: bool
    out: Path
    work: Path
    end: float

    @property
    def around(self) -> dict[str, str]:
        """The environment of a part."""
        settings = {
            "VLMERGE_RESULTS": str(self.out),
            "VLMERGE_BENCH": str(self.work),
            "XDG_CACHE_HOME": str(self.work / "cache"),
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **settings, **({} if self.on_gpu else {"VLMERGE_BENCH_RUNS": "1"})}

    def limit(self, part: Part) -> float:
        """Seconds that a part may take now; half of them suffice for a rehearsal."""
        return min(part.limit_seconds / (1 if self.on_gpu else 2), self.end - time.monotonic())

    def run(self, name: str) -> str:
        """How a part ended. All it says goes to the log."""
        part = PARTS[name]
        limit = self.limit(part)
        if limit < LEAST_SECONDS:
            return "not begun"
        words = [*PYTHON, *part.words, *self._more(name)]
        with open(self.out / "log.txt", "ab") as log:
            log.write(f"\n=== {name}: {' '.join(words[1:])}\n".encode())
            log.flush()
            process = subprocess.Popen(words, cwd=ROOT, env=self.around, stdout=log, stderr=log)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                _stop(process)
                return "at its limit"
        return "well" if code == 0 else f"with {code}"

    def _more(self, name: str) -> list[str]:
        """What is said to a part besides."""
        if name == "tests":
            return [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
        if name == "study":
            return ["--out", str(self.work / "study"), *([] if self.on_gpu else STUDY_REHEARSAL)]
        return []


def main(names: list[str]) -> int:
    if unknown := set(names) - set(PARTS):
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        return 2
    out, end = Path(os.environ.get("OUT", WORK / "quarter")), float(os.environ.get("SECONDS_LEFT", "inf"))
    session = Session(devices.has_gpu(), out, _work_folder(), time.monotonic() + end)
    for folder in (session.out, session.work):
        folder.mkdir(parents=True, exist_ok=True)
    _show([("part", "answers", "at most")] + [(n, p.answers, f"{session.limit(p):.0f} s") for n, p in PARTS.items()])
    inputs = None
    if "works" in (names or PARTS):  # made while others run
        inputs = subprocess.Popen([*PYTHON, "benchmarks.gpu", "inputs", "rehearse"], cwd=ROOT, env=session.around)
    rows = []
    for name in names or PARTS:
        if name == "works" and inputs is not None:
            inputs.wait()
        started = time.monotonic()
        rows.append((name, session.run(name), f"{time.monotonic() - started:.0f} s"))
        print(*rows[-1], flush=True)
    _show([("part", "ended", "took"), *rows])
    return 1 if any(ended.startswith("with") for _, ended, _ in rows) else 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
