"""The newest records in results/, and what follows from two of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import harness
from vlmerge_cli import records
from vlmerge_cli.records import Record


def latest(name: str) -> list[Record]:
    """Of every work the rows that its last run saved; of records that know no run, the last of every row."""
    found: dict[tuple[object, object], Record] = {}
    for record in records.read(harness.RESULTS / f"{name}.jsonl"):
        found[record.at.get("work"), record.at.get("row")] = record
    newest = {record.at.get("work"): record.at.get("run") for record in sorted(found.values(), key=_run)}
    return [record for record in found.values() if record.at.get("run") == newest[record.at.get("work")]]


def _run(record: Record) -> str:
    return str(record.at.get("run", ""))


def pick(name: str, work: str | None, row: str) -> Record | None:
    """The newest record of a row, if there is one."""
    return next((one for one in latest(name) if one.at.get("work") == work and one.at["row"] == row), None)


def times(one: Record, other: Record) -> float:
    """How many times ``other``'s wall time ``one`` takes: the median over rounds, which drift together."""
    return statistics.median(a / b for a, b in zip(one.values["walls"], other.values["walls"], strict=True))


def bandwidth_seconds(bytes_in: int, bytes_out: int) -> float | None:
    """Seconds to read and then write so many bytes at the best rates that this machine showed."""
    reads, writes = (pick("limits", None, row) for row in ("read a warm file", "write a new file"))
    if reads is None or writes is None:
        return None
    return bytes_in / reads.values["best"] / 1e9 + bytes_out / writes.values["best"] / 1e9


class Line(NamedTuple):
    """y = start + slope x by least squares, and R² of it."""

    start: float
    slope: float
    r_squared: float


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    slope, start = statistics.linear_regression(x, y)
    return Line(start, slope, statistics.correlation(x, y) ** 2)


def growth(row: str, most_gb: float = math.inf) -> tuple[list[float], list[float], list[float]]:
    """GB, seconds and peak MiB of one row at every size up to ``most_gb``, by size."""
    found = [one.values for one in latest("growth") if one.at["row"] == row and one.values["bytes_in"] <= 1e9 * most_gb]
    found.sort(key=lambda values: values["bytes_in"])
    return (
        [values["bytes_in"] / 1e9 for values in found],
        [values["wall_seconds"] for values in found],
        [values["peak_mib"] for values in found],
    )
