"""All four distances between v and l, beside a plain torch script and beside reading the bytes.

    python -m benchmarks.distance

W3: the 85 million pairs of a BEiT-base-size checkpoint in float32. The floor is the experts' bytes, once, over the
rate of reading measured in the same run. Errors are relative to a float64 computation over chunks, done once.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inputs, limits
from benchmarks.harness import VLMERGE, WORK, Command, Row, compare, save

PLAIN = Path(__file__).with_name("plain_distance.py")
NAMES = ("l2", "cosine", "ssd", "tssd")
EXPERT = re.compile(r"(transformer\.blocks\.\d+\.(?:attn|mlp|norm1|norm2))\.(v|l)\.(.*)")
CHUNK = 1 << 20
Vector = np.ndarray[Any, Any]


def main() -> None:
    source = inputs.base()
    commands = {
        "vlmerge distance": Command([*VLMERGE, "distance", str(source), "--json"], (source,)),
        "plain script": Command([sys.executable, str(PLAIN), str(source)], (source,)),
    }
    truth, rate = known(source), limits.read_rate(source, 2)
    rows = compare("W3", commands)
    rate = max(rate, limits.read_rate(source, 2))
    values = {}
    for name, row in rows.items():
        errors = {which: abs(found - truth[which]) / truth[which] for which, found in said(row).items()}
        floor = truth["num_bytes"] / rate
        values[name] = {**row.values(), "errors": errors, "floor_seconds": round(floor, 4)}
    save("distance", values, {"work": "W3", "truth": truth})


def said(row: Row) -> dict[str, float]:
    """The four distances from a program's output: JSON, or lines of a name and a number."""
    text = row.said.strip()
    found = json.loads(text) if text.startswith("{") else dict(line.split() for line in text.splitlines())
    return {name: float(found[name]) for name in NAMES}


def known(source: Path) -> dict[str, float]:
    """The distances in float64, chunk by chunk; kept in the work folder for the next time."""
    kept = WORK / "distance-truth.json"
    stamp = source.stat().st_mtime_ns
    if kept.exists() and (found := json.loads(kept.read_text())).pop("stamp") == stamp:
        return dict(found)
    truth = compute(list(pairs(source)))
    kept.write_text(json.dumps({**truth, "stamp": stamp}))
    return truth


def pairs(source: Path) -> Iterator[tuple[Vector, Vector]]:
    """The flat float32 tensors of v and l, slot by slot, mapped from a file."""
    with open(source, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(source, np.uint8, "r", 8 + length)
    sides: dict[str, dict[str, Vector]] = {}
    for key in sorted(header):
        if found := EXPERT.fullmatch(key):
            first, last = header[key]["data_offsets"]
            sides.setdefault(f"{found[1]}.{found[3]}", {})[found[2]] = data[first:last].view(np.float32)
    for one in sides.values():
        yield one["v"], one["l"]


def compute(vectors: list[tuple[Vector, Vector]]) -> dict[str, float]:
    """The formulas as they stand, every sum in float64; entries up to the k-th smallest, k = n / 2, count as zero."""
    size = sum(len(x) for x, _ in vectors)
    limits_of = []
    for side in (0, 1):
        magnitudes = np.abs(np.concatenate([pair[side] for pair in vectors]))
        limits_of.append(np.partition(magnitudes, size // 2 - 1)[size // 2 - 1])
        del magnitudes
    sums = dict.fromkeys(("dd", "xx", "yy", "xy", "sign", "truncated", "kept"), 0.0)
    for whole_x, whole_y in vectors:
        for first in range(0, len(whole_x), CHUNK):
            x, y = (v[first : first + CHUNK].astype(np.float64) for v in (whole_x, whole_y))
            for name, a, b in (("dd", x - y, x - y), ("xx", x, x), ("yy", y, y), ("xy", x, y)):
                sums[name] += float((a * b).sum())
            sums["sign"] += _dissimilarity(x, y)
            x[np.abs(x) <= limits_of[0]] = 0
            y[np.abs(y) <= limits_of[1]] = 0
            kept = (x != 0) | (y != 0)
            sums["kept"] += int(kept.sum())
            sums["truncated"] += _dissimilarity(x[kept], y[kept])
    return {
        "l2": sums["dd"] ** 0.5,
        "cosine": 1 - sums["xy"] / (sums["xx"] * sums["yy"]) ** 0.5,
        "ssd": sums["sign"] / size,
        "tssd": sums["truncated"] / sums["kept"],
        "num_pairs": size,
        "num_bytes": 2 * 4 * size,
    }


def _dissimilarity(x: Vector, y: Vector) -> float:
    """Σ 1 - |x+y| / (|x|+|y|); two zeros are alike."""
    whole = np.abs(x) + np.abs(y)
    alike = np.divide(np.abs(x + y), whole, out=np.ones_like(x), where=whole != 0)
    return float((1 - alike).sum())


if __name__ == "__main__":
    main()
