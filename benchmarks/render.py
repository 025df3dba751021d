"""Tables of benchmarks/README.md from the records in results/: the last run of every row.

python -m benchmarks.render
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.harness import RESULTS
from vlmerge_cli import records
from vlmerge_cli.records import Record

PAGE = Path(__file__).with_name("README.md")

#: A table is its columns: heading -> how a record fills it.
Columns = Mapping[str, Callable[[Record], str]]


def latest(name: str) -> list[Record]:
    """The last record of every (work, row), in the order in which rows first appeared."""
    found: dict[tuple[object, object], Record] = {}
    for record in records.read(RESULTS / f"{name}.jsonl"):
        found[(record.at.get("work"), record.at.get("row"))] = record
    return list(found.values())


def at(name: str) -> Callable[[Record], str]:
    return lambda record: str(record.at[name])


def value(name: str, form: str = "{:.2f}") -> Callable[[Record], str]:
    return lambda record: form.format(record.values[name])


def wall(form: str) -> Callable[[Record], str]:
    """Median and, in brackets, the lowest and highest."""

    def cell(record: Record) -> str:
        names = ("wall_seconds", "wall_low", "wall_high")
        median, low, high = (form.format(record.values[name]) for name in names)
        return f"{median} ({low}-{high})"

    return cell


def times_first(record: Record) -> str:
    """Wall time in units of the first row of the same work."""
    first = next(r for r in latest(record.kind) if r.at["work"] == record.at["work"])
    return f"{record.values['wall_seconds'] / first.values['wall_seconds']:.1f}"


def gigabytes_per_second(record: Record) -> str:
    moved = record.at["bytes_in"] + record.at["bytes_out"]
    return f"{moved / 1e9 / record.values['wall_seconds']:.2f}"


#: Whole processes beside each other.
PROCESSES: Columns = {
    "work": at("work"),
    "what": at("row"),
    "wall s (low-high)": wall("{:.2f}"),
    "times vlmerge": times_first,
    "cpu s": value("cpu_seconds"),
    "peak MiB": value("peak_mib", "{:.0f}"),
}

TABLES: dict[str, Columns] = {
    "startup": {"command": at("row"), "wall s (low-high)": wall("{:.3f}"), "peak MiB": value("peak_mib", "{:.0f}")},
    "merge": {**PROCESSES, "GB/s": gigabytes_per_second},
    "distance": PROCESSES,
    "grams": {
        "what": at("row"),
        "tokens/s": value("tokens_per_second", "{:.0f}"),
        "cpu s a batch": value("cpu_seconds"),
        "speed of the forward pass": value("share_of_forward", "{:.0%}"),
        "of the arithmetic limit": value("share_of_limit", "{:.0%}"),
        "peak MiB": value("peak_mib", "{:.0f}"),
        "beyond the forward pass": value("beyond_forward_mib", "{:.0f}"),
    },
    "solve": {
        "what": at("row"),
        "threads": at("num_threads"),
        "wall s": value("wall_seconds"),
        "cpu s": value("cpu_seconds"),
        "error": value("error", "{:.0e}"),
    },
    "model": {
        "what": at("row"),
        "cpu s, best": value("cpu_seconds"),
        "median": value("cpu_seconds_median"),
        "samples/s": value("samples_per_second"),
        "of the matrix rate": value("share_of_matrix_rate", "{:.0%}"),
    },
    "pretrain": {
        "model": at("row"),
        "image px": at("image_px"),
        "batch": at("batch_size"),
        "samples/s": value("samples_per_second"),
        "s a step": value("seconds_per_step"),
        "waiting for data": value("data_ratio", "{:.1%}"),
        "of the matrix rate": value("matrix_rate_ratio", "{:.0%}"),
    },
    "retrieval": {
        "what": at("row"),
        "cpu s": value("cpu_seconds"),
        "bare products s": value("products_seconds"),
        "share of their rate": value("share_of_product_rate"),
        "peak MiB beside the features": value("extra_peak_mib", "{:.0f}"),
        "MiB of the whole table": value("whole_table_mib", "{:.0f}"),
    },
}


def table(name: str) -> str:
    columns, rows = TABLES[name], latest(name)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(record) for cell in columns.values()) + " |" for record in rows]
    return "\n".join(lines) + "\n\n" + machine(rows[-1])


def machine(record: Record) -> str:
    facts = record.at
    place = f"{facts['cpu']}, {facts['num_cpus']} processors, {facts['memory_gb']} GB"
    return f"*{place}, Python {facts['python']}, {facts['date']}.*"


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
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n" + machine(latest("finetune")[-1])


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for name, make in {**{name: partial(table, name) for name in TABLES}, "finetune": finetune}.items():
        if latest(name):
            new = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
            text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
