"""Tables of benchmarks/README.md from the records in results/: the last run of every row.

python -m benchmarks.render
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.harness import RESULTS
from vlmerge_cli import records
from vlmerge_cli.records import Record

PAGE = Path(__file__).with_name("README.md")


def latest(name: str) -> list[Record]:
    """The last record of every (work, row), in the order in which rows first appeared."""
    found: dict[tuple[object, object], Record] = {}
    for record in records.read(RESULTS / f"{name}.jsonl"):
        found[(record.at.get("work"), record.at.get("row"))] = record
    return list(found.values())


def table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def merge() -> str:
    rows = []
    for record in latest("merge"):
        at, values = record.at, record.values
        moved = (at["bytes_in"] + at["bytes_out"]) / 1e9
        first = next(r for r in latest("merge") if r.at["work"] == at["work"])
        ratio = values["wall_seconds"] / first.values["wall_seconds"]
        rows.append(
            [
                at["work"],
                at["row"],
                f"{values['wall_seconds']:.2f} ({values['wall_low']:.2f}-{values['wall_high']:.2f})",
                f"{ratio:.1f}",
                f"{values['cpu_seconds']:.2f}",
                f"{values['peak_mib']:.0f}",
                f"{moved / values['wall_seconds']:.2f}",
            ]
        )
    columns = ["work", "what", "wall s (low-high)", "times vlmerge", "cpu s", "peak MiB", "GB/s"]
    return table(columns, rows) + "\n\n" + machine("merge")


def startup() -> str:
    rows = [
        [r.at["row"], f"{r.values['wall_seconds']:.3f} ({r.values['wall_low']:.3f}-{r.values['wall_high']:.3f})"]
        for r in latest("startup")
    ]
    return table(["command", "wall s (low-high)"], rows) + "\n\n" + machine("startup")


def finetune() -> str:
    """Per task both starts over seeds, and in words whether they can be told apart."""
    scores: dict[tuple[str, int], dict[str, list[float]]] = {}
    measures: dict[str, str] = {}
    for record in records.read(RESULTS / "finetune.jsonl"):
        at = record.at
        measures[at["task"]] = at["measure"].replace("_", " ")
        scores.setdefault((at["task"], at["steps"]), {}).setdefault(at["start"], []).append(record.values["score"])
    rows = []
    for (name, steps), by_start in scores.items():
        if len(by_start) < 2:
            continue
        before, after = by_start["random"], by_start["pretrained"]
        said = "helps" if min(after) > max(before) else "hurts" if max(after) < min(before) else "not told apart"
        cells = [f"{sum(own) / len(own):.1f} ({min(own):.1f}-{max(own):.1f})" for own in (after, before)]
        rows.append([name, measures[name], str(steps), str(min(len(before), len(after))), *cells, said])
    columns = ["task", "score", "steps", "seeds", "from pre-trained", "from start values", "pre-training"]
    return table(columns, rows) + "\n\n" + machine("finetune")


def retrieval() -> str:
    rows = [
        [
            record.at["row"],
            f"{record.values['cpu_seconds']:.2f}",
            f"{record.values['products_seconds']:.2f}",
            f"{record.values['share_of_product_rate']:.2f}",
            f"{record.values['extra_peak_mib']:.0f}",
            f"{record.values['whole_table_mib']:.0f}",
        ]
        for record in latest("retrieval")
    ]
    columns = ["what", "cpu s", "bare products s", "share of their rate", "peak MiB beside the features"]
    return table([*columns, "MiB of the whole table"], rows) + "\n\n" + machine("retrieval")


def machine(name: str) -> str:
    at = latest(name)[-1].at
    return f"*{at['cpu']}, {at['num_cpus']} processors, {at['memory_gb']} GB, Python {at['python']}, {at['date']}.*"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for name, make in {"merge": merge, "startup": startup, "finetune": finetune, "retrieval": retrieval}.items():
        if latest(name):
            new = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
            text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
