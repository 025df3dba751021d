"""Distances as a table: the whole of each pair of experts, and its rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from vlmerge_cli import console
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.distances.gate import gate
from vlmerge_cli.distances.measure import Distance, Distances, measure, num_bytes_read, pairs, parse_pair
from vlmerge_cli.errors import PlanError
from vlmerge_cli.layouts.survey import Survey
from vlmerge_cli.metrics import METRICS
from vlmerge_cli.records import Record
from vlmerge_cli.result_base import Result, html_table


@dataclass(frozen=True)
class DistanceTable(Result):
    """The distances of one or more pairs of experts, ``by`` layer, module or slot; the worst rows first."""

    checkpoint: str
    layout: str
    architecture: str
    by: str
    pairs: tuple[Distances, ...]

    @property
    def whole(self) -> Distance:
        """Of the first pair, over all of its weights."""
        return self.pairs[0].whole

    @property
    def rows(self) -> tuple[Distance, ...]:
        """Of the first pair."""
        return self.pairs[0].rows

    def to_dict(self) -> dict[str, Any]:
        """The first pair's whole at the top level, and the rows of every pair."""

        def whole(distances: Distances) -> dict[str, Any]:
            return {"pair": list(distances.pair)} | distances.whole.to_dict()

        about = {"checkpoint": self.checkpoint, "layout": self.layout, "architecture": self.architecture}
        rows = [{"pair": list(d.pair)} | row.to_dict() for d in self.pairs for row in d.rows]
        return about | whole(self.pairs[0]) | {"pairs": [whole(d) for d in self.pairs], "rows": rows}

    def to_records(self) -> list[Record]:
        """One record for each whole and row, as ``vlmerge report`` reads them."""
        about = {"checkpoint": self.checkpoint, "layout": self.layout, "architecture": self.architecture}
        return [
            Record("distance", {**about, "pair": ",".join(pair), "by": self.by, "where": row.at}, _values(row))
            for pair, row in self.all_rows()
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a line for each whole and row. Needs pandas."""
        import pandas

        return pandas.DataFrame([{"pair": ",".join(pair), **row.to_dict()} for pair, row in self.all_rows()])

    def to_csv(self) -> str:
        """A line for each whole and row, under a heading; numbers with all their digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["pair", "at", "num_weights", *METRICS])
        for pair, row in self.all_rows():
            writer.writerow(["-".join(pair), row.at, row.num_weights, *map(repr, row.values.values())])
        return text.getvalue()

    def beyond(self, limits: Mapping[str, float]) -> list[str]:
        """A sentence for every limit (metric -> most) that a pair's whole exceeds."""
        return [sentence for distances in self.pairs for sentence in gate(distances, limits)]

    def all_rows(self) -> list[tuple[tuple[str, str], Distance]]:
        """Each pair with its whole, then with its rows."""
        return [(distances.pair, row) for distances in self.pairs for row in (distances.whole, *distances.rows)]

    def _repr_html_(self) -> str:
        rows = [(",".join(pair), row.at, row.num_weights, *row.values.values()) for pair, row in self.all_rows()]
        return html_table(("pair", self.by, "weights", *(metric.heading for metric in METRICS.values())), rows)


def tabulate(
    opened: Checkpoint,
    survey: Survey,
    wanted: Sequence[str],
    by: str,
    truncate: float,
    weights_only: bool,
    threads: int,
    device: str,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], object]]],
    dtype: str | None = None,
) -> DistanceTable:
    """Measure the ``wanted`` pairs ("v,l", "all"; none: the first there is).

    ``bar`` opens a progress bar for a title and its bytes; ``dtype`` is of the format, and what all are rounded to
    first. Raises PlanError where no layer has two experts, and what parse_pair and measure raise.
    """
    known = pairs(survey)
    if not known:
        raise PlanError("no layer has two experts to compare", where=f"{opened.name} ({survey.architecture})")
    asked = wanted or [",".join(known[0])]
    chosen = known if "all" in asked else [parse_pair(text, survey) for text in asked]
    source: NamedTensors = opened
    if dtype is not None:
        from vlmerge_cli.engine.as_type import AsType

        source = AsType(opened, dtype)
    found = []
    for one in dict.fromkeys(chosen):
        with bar(f"{one[0]} and {one[1]}", num_bytes_read(source, survey, one, weights_only)) as advance:
            found.append(measure(source, survey, one, by, truncate, weights_only, threads, advance, device))
        whole = found[-1].whole
        if whole.l2 > 0 and whole.ssd == 0 and whole.cosine == 1:
            what = f"{one[0]} and {one[1]} have no entry where both are other than 0 (is one all zeros?)"
            console.warn(f"{what}: an SSD and TSSD of 0 say nothing of them")
    opened.check_unchanged()
    return DistanceTable(opened.name, survey.layout.name, survey.architecture, by, tuple(found))


def _values(row: Distance) -> dict[str, float]:
    return {name: value for name, value in row.to_dict().items() if name != "at"}
