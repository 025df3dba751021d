"""Tables and figure of benchmarks/README.md from the newest records in results/.

python -m benchmarks.render
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import figures, goals, harness
from benchmarks.latest import bandwidth_seconds, fit, growth, latest, times
from vlmerge_cli import records
from vlmerge_cli.records import Record

PAGE = Path(__file__).with_name("README.md")

#: A table is its columns: heading -> how a record fills it.
Columns = Mapping[str, Callable[[Record], str]]


def at(name: str) -> Callable[[Record], str]:
    return lambda record: str(record.at[name])


def value(name: str, form: str = "{:.2f}") -> Callable[[Record], str]:
    """Nothing where a record has no such value."""
    return lambda record: form.format(record.values[name]) if name in record.values else ""


def wall(form: str) -> Callable[[Record], str]:
    """Median and, in brackets, the lowest and highest."""

    def cell(record: Record) -> str:
        names = ("wall_seconds", "wall_low", "wall_high")
        median, low, high = (form.format(record.values[name]) for name in names)
        return f"{median} ({low}-{high})"

    return cell


def times_first(record: Record) -> str:
    """Wall time in units of the first row of the same work, round by round."""
    first = next(r for r in latest(record.kind) if r.at.get("work") == record.at.get("work"))
    return f"{times(record, first):.2f}"


def megabytes(name: str) -> Callable[[Record], str]:
    return lambda record: f"{record.values[name] / 1e6:.0f}"


def share_of_bandwidth(record: Record) -> str:
    limit = bandwidth_seconds(record.values["bytes_in"], record.values["bytes_out"])
    return f"{limit / record.values['wall_seconds']:.0%}" if limit else ""


def largest_error(record: Record) -> str:
    name, error = max(record.values["errors"].items(), key=lambda item: item[1])
    return f"{error:.0e} ({name})"


def times_floor(record: Record) -> str:
    return f"{record.values['wall_seconds'] / record.values['floor_seconds']:.0f}"


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
    "limits": {
        "what": at("row"),
        "one thread": value("one_thread"),
        "two threads": value("two_threads"),
        "": value("unit", "{}"),
    },
    "startup": {"command": at("row"), "wall s (low-high)": wall("{:.3f}"), "peak MiB": value("peak_mib", "{:.0f}")},
    "merge": {
        **PROCESSES,
        "MB in": megabytes("bytes_in"),
        "MB out": megabytes("bytes_out"),
        "of the bandwidth": share_of_bandwidth,
    },
    "distance": {**PROCESSES, "times the floor": times_floor, "largest relative error": largest_error},
    "sums": {
        "work": at("work"),
        "what": at("row"),
        "tokens/s": value("tokens_per_second", "{:.0f}"),
        "s a batch (low-high)": wall("{:.2f}"),
        "times vlmerge": times_first,
        "of the arithmetic limit": value("share_of_limit", "{:.0%}"),
        "relative error": value("error", "{:.0e}"),
    },
    "solve": {
        "what": at("row"),
        "threads": at("num_threads"),
        "wall s (low-high)": wall("{:.1f}"),
        "times vlmerge": times_first,
        "of the arithmetic limit": value("share_of_limit", "{:.0%}"),
        "‖W S - R‖ / ‖R‖": value("residual", "{:.0e}"),
        "apart": value("difference", "{:.0e}"),
    },
    "conditions": {
        "condition number": value("condition", "{:.1e}"),
        "the two ways apart": value("difference", "{:.0e}"),
        "‖W S - R‖ / ‖R‖, vlmerge": value("residual", "{:.0e}"),
        "published": value("published_residual", "{:.0e}"),
    },
    "ranks": {
        "GB": at("work"),
        "what": at("row"),
        "wall s (low-high)": wall("{:.2f}"),
        "times one process": times_first,
        "cpu s": value("cpu_seconds"),
        "peak MiB of the largest process": value("peak_mib", "{:.0f}"),
    },
    "grams": {
        "what": at("row"),
        "tokens/s": value("tokens_per_second", "{:.0f}"),
        "cpu s a batch": value("cpu_seconds"),
        "speed of the forward pass": value("share_of_forward", "{:.0%}"),
        "of the arithmetic limit": value("share_of_limit", "{:.0%}"),
        "peak MiB": value("peak_mib", "{:.0f}"),
        "beyond the forward pass": value("beyond_forward_mib", "{:.0f}"),
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
    "gpu": {
        "work": at("work"),
        "what": at("row"),
        "wall s (low-high)": wall("{:.3g}"),
        "times the GPU": times_first,
        "of the limit": value("share_of_limit", "{:.1%}"),
        "of reading and writing the files": value("share_of_files", "{:.0%}"),
        "apart from the CPU": value("apart", "{:.0e}"),
    },
    "gpu-rates": {"what": at("row"), "rate": value("rate", "{}"), "": value("unit", "{}")},
    "gpu-agreement": {
        "what": at("row"),
        "apart": value("apart", "{:.0e}"),
        "allowed": value("bound", "{:.0e}"),
    },
    "gpu-training": {
        "work": at("work"),
        "what": at("row"),
        "samples/s": value("samples_per_second", "{:.0f}"),
        "wall s (low-high)": wall("{:.3f}"),
        "of the matrix rate": value("share_of_limit", "{:.0%}"),
        "peak GB": value("peak_gb", "{:.0f}"),
        "first steps s": value("warm_up_seconds", "{:.0f}"),
    },
    "gpu-grams": {
        "work": at("work"),
        "what": at("row"),
        "tokens/s": value("samples_per_second", "{:.0f}"),
        "wall s (low-high)": wall("{:.3f}"),
        "of the limit": value("share_of_limit", "{:.0%}"),
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


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def table(name: str) -> str:
    columns, rows = TABLES[name], latest(name)
    return grid(list(columns), [[cell(record) for cell in columns.values()] for record in rows]) + under(rows[-1])


def under(record: Record) -> str:
    """The machine, the day, and what a median is of."""
    facts, runs = record.at, len(record.values.get("walls", ()))
    place = f"{facts['gpu']}, " if facts.get("gpu", "none") != "none" else ""
    place += f"{facts['cpu']}, {facts['num_cpus']} processors, {facts['memory_gb']} GB"
    medians = f"; {runs} run{'s' * (runs > 1)} each" if runs else ""
    return f"\n\n*{place}, Python {facts['python']}, {facts['date']}{medians}.*"


def goal_table() -> str:
    return grid(["work", "beside", "must reach", "reached", ""], goals.rows())


def growth_table() -> str:
    """Seconds and peak memory by size; last the straight line through each column of seconds."""
    columns = [growth(row) for row in figures.LINES]
    sizes = sorted({size for measured, _, _ in columns for size in measured})
    rows = []
    for size in sizes:
        seconds = [_at(size, measured, its, "{:.2f}") for measured, its, _ in columns]
        peaks = [_at(size, measured, its, "{:.0f}") for measured, _, its in columns]
        rows.append([f"{size:.2f}", *seconds, *peaks])
    lines = [fit(measured, seconds) if len(measured) > 2 else None for measured, seconds, _ in columns]
    blank = [""] * len(columns)
    rows.append(["s/GB", *(f"{line.slope:.2f}" if line else "" for line in lines), *blank])
    rows.append(["R²", *(f"{line.r_squared:.3f}" if line else "" for line in lines), *blank])
    names = ["GB", *(f"{row}, s" for row in figures.LINES), *(f"{row}, peak MiB" for row in figures.LINES)]
    return grid(names, rows) + under(latest("growth")[-1])


def _at(size: float, sizes: list[float], values: list[float], form: str) -> str:
    return form.format(values[sizes.index(size)]) if size in sizes else ""


def finetune() -> str:
    """Per task both starts over seeds, and in words whether they can be told apart."""
    scores: dict[tuple[str, int], dict[str, list[float]]] = {}
    measures: dict[str, str] = {}
    for record in records.read(harness.RESULTS / "finetune.jsonl"):
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
    return grid(columns, rows) + under(latest("finetune")[-1])


def render(page: Path) -> None:
    """Put every table that has records between its marks."""
    text = page.read_text(encoding="utf-8")
    tables = {**{name: partial(table, name) for name in TABLES}, "growth": growth_table, "finetune": finetune}
    made = {name: make() for name, make in tables.items() if latest(name)}
    if goals.rows():
        made["goals"] = goal_table()
    for name, new in made.items():
        marked = f"<!-- {name} -->\n{new}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, marked=marked: marked, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    render(PAGE)
    figures.draw(figures.FIGURE)
