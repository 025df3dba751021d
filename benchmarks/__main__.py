"""``make bench``: every measurement, then the tables and figures.

    python -m benchmarks [PART ...]

A run that was interrupted, or a part of which failed, goes on with the parts that it has not done; naming parts runs
just those.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.harness import WORK
from vlmerge_cli import console

PARTS = (
    "limits", "startup", "merge", "distance", "sums", "solve", "growth",
    "grams", "model", "pretrain", "data", "retrieval", "gpu",
)  # fmt: skip
#: Parts that the present run has done; absent between runs.
DONE = WORK / "done-parts.txt"


def main(names: list[str]) -> int:
    if unknown := set(names) - set(PARTS):
        console.say(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    done = set(DONE.read_text().split()) if DONE.exists() and not names else set()
    failed = []
    for name in names or [part for part in PARTS if part not in done]:
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
        console.say(f"part {name}: {'failed' if code else 'done'} in {time.perf_counter() - started:.0f} s")
        if code:
            failed.append(name)
        elif not names:
            with open(DONE, "a") as file:
                file.write(name + "\n")
    subprocess.run([sys.executable, "-m", "benchmarks.render"], check=True)
    if failed:
        console.say(f"failed: {', '.join(failed)}; run this again to repeat them alone")
    elif not names:
        DONE.unlink(missing_ok=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
