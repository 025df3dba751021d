"""Merging by interpolation, beside a limit program in C, a plain script, and other tools on as many bytes.

    python -m benchmarks.merge [W1] [W2]

W1: BEiT-base size in float32, one file. W2: 4.2 billion parameters in bfloat16, four shards. mergekit and sd-mecha
live in an environment of their own ($VLMERGE_PEERS, see README.md); a row whose program is missing is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import inputs, limit
from benchmarks.harness import PEERS, VLMERGE, WORK, Command, compare, save

HERE = Path(__file__).parent
OURS, LIMIT, SYNCED, PLAIN = "vlmerge merge", "C program, two threads", "vlmerge merge, with fsync", "plain script"
MERGEKIT, MERGEKIT_YAML, MECHA = "mergekit-pytorch linear", "mergekit-yaml linear", "sd-mecha weighted_sum"


def base() -> None:
    source, halves, output = inputs.base(), inputs.base_halves(), WORK / "out.safetensors"
    plain = [sys.executable, str(HERE / "plain_average.py"), str(source), str(output)]
    mecha = [str(PEERS / "python"), str(HERE / "mecha_average.py"), *map(str, halves), str(output)]
    rows = {
        OURS: _ours(source, output, "--no-sync"),
        LIMIT: _limit(source, output),
        SYNCED: _ours(source, output),
        PLAIN: Command(plain, (source,), output),
        MERGEKIT: _mergekit("mergekit-pytorch", halves, "float32"),
        MECHA: Command(mecha, halves, output) if _has("sd_mecha") else None,
    }
    _measure("W1", rows, runs=5)


def four_billion() -> None:
    source, llamas, output = inputs.grown(8), inputs.llamas(), WORK / "out-folder"
    rows = {
        OURS: _ours(source, output, "--no-sync"),
        LIMIT: _limit(source, WORK / "out.safetensors"),
        SYNCED: _ours(source, output),
        MERGEKIT_YAML: _mergekit("mergekit-yaml", llamas, "bfloat16"),
    }
    _measure("W2", rows, runs=3, warm_up=False)


def _measure(work: str, rows: dict[str, Command | None], runs: int, warm_up: bool = True) -> None:
    found = compare(work, {name: command for name, command in rows.items() if command}, runs, warm_up)
    save("merge", {name: row.values() for name, row in found.items()}, {"work": work})


def _ours(source: Path, output: Path, *options: str) -> Command:
    return Command([*VLMERGE, "merge", str(source), "-o", str(output), *options], (source,), output)


def _limit(source: Path, output: Path) -> Command | None:
    program, plan = limit.program(), WORK / "limit-plan.txt"
    if program is None:
        return None
    limit.write_plan(source, output, plan)
    return Command([str(program), str(plan), "2"], (source,), output)


def _mergekit(program: str, models: tuple[Path, Path], dtype: str) -> Command | None:
    if not (PEERS / program).exists():
        return None
    recipe, output = WORK / f"{program}.yaml", WORK / "out-mergekit"
    lines = "".join(f"  - model: {path}\n    parameters: {{weight: 0.5}}\n" for path in models)
    recipe.write_text(f"merge_method: linear\ndtype: {dtype}\nmodels:\n{lines}")
    return Command([str(PEERS / program), str(recipe), str(output)], models, output)


def _has(package: str) -> bool:
    return any((PEERS.parent / "lib").glob(f"python*/site-packages/{package}"))


if __name__ == "__main__":
    for name in sys.argv[1:] or ["W1", "W2"]:
        {"W1": base, "W2": four_billion}[name]()
