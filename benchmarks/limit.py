"""The limit program limit_merge.c: compiled here, and given the work of a merge as byte ranges.

python -m benchmarks.limit CKPT OUT PLAN        writes PLAN for one output file OUT
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import WORK
from vlmerge_cli import console

SOURCE = Path(__file__).with_name("limit_merge.c")
EXPERT = re.compile(r"(transformer\.blocks\.\d+\.(?:attn|mlp|norm1|norm2))\.(v|l|vl)\.(.*)")
#: Of v, l and vl in the plain average of a layer (interpolation with its default settings).
WEIGHTS = {2: (1 / 2, 1 / 2), 3: (1 / 3, 1 / 3, 1 / 3)}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: the number of its file, and its bytes there."""

    file: int
    start: int
    num_bytes: int
    about: dict[str, object]


def program() -> Path | None:
    """The compiled program; None, said once, where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        console.say("no C compiler: the limit program is left out")
        return None
    binary = WORK / "limit_merge"
    command = [compiler, "-O3", "-march=native", "-Wall", "-o", str(binary), str(SOURCE), "-lpthread"]
    subprocess.run(command, check=True)
    return binary


def write_plan(source: Path, output: Path, plan: Path) -> None:
    """Byte ranges that turn ``source`` (a file, or a folder of shards) into one merged file ``output``."""
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    groups: dict[str, list[Tensor]] = {}
    for number, path in enumerate(files, 1):  # 0 is the new header
        for key, tensor in _tensors(path, number).items():
            found = EXPERT.fullmatch(key)
            groups.setdefault(f"{found[1]}.{found[3]}" if found else key, []).append(tensor)
    header, starts = _header(groups)
    beside = plan.with_name(plan.name + ".header")
    beside.write_bytes(header)
    size = len(header) + sum(tensors[0].num_bytes for tensors in groups.values())
    lines = [f"type {next(iter(groups.values()))[0].about['dtype']}"]
    lines += [f"file {path}" for path in (beside, *files)]
    lines += [f"output {output} {size}", f"range 0 {len(header)} 1 0 0 1"]
    for target, tensors in groups.items():
        weights = WEIGHTS.get(len(tensors), (1.0,))
        parts = " ".join(f"{one.file} {one.start} {w!r}" for one, w in zip(tensors, weights, strict=True))
        lines.append(f"range {len(header) + starts[target]} {tensors[0].num_bytes} {len(tensors)} {parts}")
    plan.write_text("\n".join(lines) + "\n")


def _tensors(path: Path, number: int) -> dict[str, Tensor]:
    """In the order of the file's bytes."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    found = {
        key: Tensor(number, 8 + length + start, stop - start, {"dtype": entry["dtype"], "shape": entry["shape"]})
        for key, entry in entries.items()
        for start, stop in [entry["data_offsets"]]
    }
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def _header(groups: dict[str, list[Tensor]]) -> tuple[bytes, dict[str, int]]:
    """The output's header, and where each of its tensors starts behind it."""
    entries: dict[str, object] = {}
    starts: dict[str, int] = {}
    at = 0
    for target, tensors in groups.items():
        starts[target] = at
        at += tensors[0].num_bytes
        entries[target] = {**tensors[0].about, "data_offsets": [starts[target], at]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts


if __name__ == "__main__":
    write_plan(*map(Path, sys.argv[1:4]))
