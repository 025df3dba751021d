"""How time and memory grow: 0.1 to 12 GB of bfloat16, one and two threads, one to four ranks.

    python -m benchmarks.growth [GB ...]

Merges and distances of checkpoints of growing size, without fsync; the largest is made for this and removed again,
and is left out where the disk has no room for it. Ranks share one checkpoint, one thread each, beside one process
without them.
"""

from __future__ import annotations

import shutil
import sys

from benchmarks import inputs
from benchmarks.harness import VLMERGE, WORK, Command, compare, remove, save, size
from vlmerge_cli import console

RANKS, RANKS_GB = (1, 2, 4), 4
KEPT_GB = 8
#: Of the disk, beside the largest checkpoint and what is merged from it.
SPARE_BYTES = 10e9


def main(sizes: list[float]) -> None:
    for gigabytes in sizes:
        if gigabytes > KEPT_GB and not _has_room(gigabytes):
            console.say(f"{gigabytes} GB: no room on the disk, left out")
            continue
        source, output = inputs.grown(gigabytes), WORK / "out-grown"
        merge = [*VLMERGE, "merge", str(source), "-o", str(output), "--no-sync"]
        commands = {
            f"{name}, {threads} thread{'s' * (threads > 1)}": Command(
                [*words, "--threads", str(threads)], (source,), output if name == "merge" else None
            )
            for name, words in {"merge": merge, "distance": [*VLMERGE, "distance", str(source), "--json"]}.items()
            for threads in (1, 2)
        }
        rows = compare(f"{gigabytes} GB", commands, 3 if gigabytes <= 2 else 2, warm_up=gigabytes <= 2)
        save("growth", {name: row.values() for name, row in rows.items()}, {"work": f"{gigabytes} GB"})
        if gigabytes > KEPT_GB:
            remove(source)


def ranks() -> None:
    """``torchrun`` starts PyTorch once a rank, which alone takes seconds: the time of one rank tells how many."""
    source, output = inputs.grown(RANKS_GB), WORK / "out-grown"
    options = ["merge", str(source), "-o", str(output), "--no-sync", "--threads", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    commands = {"one process": Command([*VLMERGE, *options], (source,), output)}
    for number in RANKS:
        words = [*torchrun, str(number), "-m", "vlmerge_cli", *options]
        commands[f"{number} rank{'s' * (number > 1)}"] = Command(words, (source,), output)
    rows = compare("ranks", commands, 3)
    save("ranks", {name: row.values() for name, row in rows.items()}, {"work": f"{size(source) / 1e9:.1f} GB"})


def _has_room(gigabytes: float) -> bool:
    return shutil.disk_usage(WORK).free > 1.5e9 * gigabytes + SPARE_BYTES


if __name__ == "__main__":
    main([float(text) if "." in text else int(text) for text in sys.argv[1:]] or list(inputs.GROWTH))
    if not sys.argv[1:]:
        ranks()
