"""Merging by interpolation, beside a plain script and beside mergekit's linear merge of as many bytes.

    python -m benchmarks.merge [base] [4b]

W1: BEiT-base size in float32, one file. W2: 4.2 billion parameters in bfloat16, four shards.
mergekit lives in an environment of its own ($VLMERGE_PEERS); without it its rows are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness import PEERS, VLMERGE, WORK, compare, fresh, save
from benchmarks.inputs import checkpoint, two_halves

PLAIN = Path(__file__).with_name("plain_average.py")


def base() -> None:
    source = checkpoint("base")
    outputs = {name: str(fresh(f"out-{name}.safetensors")) for name in ("vlmerge", "synced", "plain")}
    merge = [*VLMERGE, "merge", str(source), "--force", "-o"]
    commands = {
        "vlmerge merge": [*merge, outputs["vlmerge"], "--no-sync"],
        "vlmerge merge, synced": [*merge, outputs["synced"]],
        "plain script": [sys.executable, str(PLAIN), str(source), outputs["plain"]],
        **_mergekit(two_halves(source, "F32")),
    }
    rows = compare("W1", commands, [source, *two_halves(source, "F32")])
    save("merge", rows, {"work": "W1", "bytes_in": source.stat().st_size, "bytes_out": _size(outputs["vlmerge"])})


def four_billion() -> None:
    source = checkpoint("4b", "BF16")
    output = fresh("out-4b")
    merge = [*VLMERGE, "merge", str(source), "--no-sync", "--force", "-o", str(output)]
    commands = {"vlmerge merge": merge}
    rows = compare("W2", commands, [source], num_runs=3)
    save("merge", rows, {"work": "W2", "bytes_in": _size(source), "bytes_out": _size(output)})


def _mergekit(halves: tuple[Path, Path]) -> dict[str, list[str]]:
    if not (PEERS / "mergekit-pytorch").exists():
        return {}
    recipe = WORK / "mergekit.yaml"
    models = "".join(f"  - model: {path}\n    parameters: {{weight: 0.5}}\n" for path in halves)
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}")
    return {
        "mergekit linear, as many bytes": [str(PEERS / "mergekit-pytorch"), str(recipe), str(fresh("out-mergekit"))]
    }


def _size(path: str | Path) -> int:
    path = Path(path)
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["base", "4b"]:
        {"base": base, "4b": four_billion}[name]()
