"""The page of ``vlmerge distance``: the distances of one checkpoint, whole and row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmerge_cli.metrics import METRICS
from vlmerge_cli.records import Record
from vlmerge_cli.reports import paper
from vlmerge_cli.reports.document import Block, Column, Figure, Number, Panel, Paragraph, Section, Table
from vlmerge_cli.reports.labels import natural

KINDS = ("distance",)
MOST_ROWS = 40  # of one panel


def subtitle(records: Sequence[Record]) -> str:
    at = _of_checkpoint(records)[0].at
    known = [str(at[name]) for name in ("checkpoint", "architecture", "layout") if name in at]
    return f"{', '.join(known)}. The smaller the distance, the less is lost by merging."


def sections(records: Sequence[Record]) -> list[Section]:
    """One section a pair of experts. Distances of a study are on its own page."""
    found: dict[str, list[Record]] = {}
    for record in _of_checkpoint(records):
        found.setdefault(str(record.at.get("pair", "")), []).append(record)
    return [Section(f"Experts {pair.replace(',', ' and ')}", tuple(_blocks(pair, own))) for pair, own in found.items()]


def _of_checkpoint(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.kind == "distance" and "seed" not in record.at]


def _blocks(pair: str, records: Sequence[Record]) -> list[Block]:
    columns = (Column("part"), Column("weights"), *(Column(METRICS[metric].heading) for metric in METRICS))
    rows = tuple((str(r.at["where"]), _number(r.values, "num_weights", 0), *(_number(r.values, m) for m in METRICS))
                 for r in records)  # fmt: skip
    slug = re.sub(r"\W", "-", pair)
    place = records[0].at.get("by", "row")
    title = f"Distances by {place}"
    blocks: list[Block] = [Table(f"distances-{slug}", title, columns, rows)]
    parts = sorted((r for r in records if r.at["where"] != "all"), key=lambda r: natural(str(r.at["where"])))
    if len(parts) > 1:
        blocks.append(_figure(slug, parts[:MOST_ROWS], str(place), len(parts)))
    tssd = ", ".join(
        f"{value:g} at {100 * k:g} %" for k, value in zip(paper.K_SEED, paper.TABLE_5["tssd"][0], strict=True)
    )
    blocks.append(Paragraph(f"For comparison, the paper’s models by the share of the seed phase: TSSD {tssd}."))
    return blocks


def _figure(slug: str, parts: Sequence[Record], place: str, num: int) -> Figure:
    """A panel a metric, a bar a row, the first layer on top."""
    panels = tuple(
        Panel(
            METRICS[metric].heading, bars=tuple((str(r.at["where"]), float(r.values[metric])) for r in parts),
            digits=METRICS[metric].digits + 1, color=number,
        )
        for number, metric in enumerate(METRICS)
        if all(metric in r.values for r in parts)
    )  # fmt: skip
    left_out = f" The first {MOST_ROWS} of {num}." if num > len(parts) else ""
    return Figure(f"by-{place}-{slug}", f"By {place}", panels, f"The distances by {place}.{left_out}")


def _number(values: Mapping[str, Any], name: str, digits: int | None = None) -> Number | None:
    return (
        None
        if name not in values
        else Number(float(values[name]), None, METRICS[name].digits + 1 if digits is None else digits)
    )
