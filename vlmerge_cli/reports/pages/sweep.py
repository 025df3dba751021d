"""The page of ``vlmerge sweep``: the scores of many merges of one checkpoint, and its curve over what was varied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vlmerge_cli.records import Record
from vlmerge_cli.reports.document import (
    Block,
    Cell,
    Column,
    Figure,
    Level,
    Line,
    Number,
    Panel,
    Paragraph,
    Section,
    Table,
)
from vlmerge_cli.reports.labels import main_score, words

KINDS = ("sweep",)


def subtitle(records: Sequence[Record]) -> str:
    num = sum(record.kind == "sweep" and record.at.get("merge") is not None for record in records)
    return f"{num} merges of one checkpoint, each scored. What is chosen here is to be judged on another split."


def sections(records: Sequence[Record]) -> list[Section]:
    """One section for each checkpoint, task, split, way of scoring and method."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.kind == "sweep":
            groups.setdefault(_scoring(record.at), []).append(record)
    found: list[Section] = []
    for own in groups.values():
        bare = [record for record in own if record.at.get("merge") is None]
        for method in dict.fromkeys(r.at["merge"]["method"] for r in own if r.at.get("merge") is not None):
            merged = [r for r in own if r.at.get("merge") is not None and r.at["merge"]["method"] == method]
            found.append(_section(len(found) + 1, method, bare, merged))
    return found


def _section(number: int, method: str, bare: Sequence[Record], merged: Sequence[Record]) -> Section:
    at = merged[0].at
    main = main_score(str(at.get("task", "")), merged[0].values)
    steps = int(at.get("finetune_steps", 0))
    how = f"after {steps} steps of fine-tuning" if steps else "zero-shot"
    best = max(merged, key=lambda record: float(record.values[main]))
    names = _varying(merged)
    shown = ", ".join(f"{name} {_said(best.at['merge']['settings'][name])}" for name in names) or method
    texts = f"Best {words(main)}: {float(best.values[main]):.2f} % at {shown}"
    if bare:
        texts += f"; the checkpoint as it is has {float(bare[0].values[main]):.2f} %"
    blocks: list[Block | None] = [
        Paragraph(f"{texts}. Scored on the {at.get('split', '')} split, {how}."),
        _figure(number, method, names, main, bare, merged),
        _table(number, names, bare, merged),
    ]
    title = f"{words(str(at.get('task', 'score')))}: {method}, {how}"
    title = title if number == 1 else f"{title} ({number})"
    return Section(title[:1].upper() + title[1:], tuple(block for block in blocks if block is not None))


def _table(number: int, names: Sequence[str], bare: Sequence[Record], merged: Sequence[Record]) -> Table:
    scores = list(dict.fromkeys(name for record in (*merged, *bare) for name in record.values if name != "num_samples"))
    columns = (Column("merge"), *(Column(name) for name in names), *(Column(words(name)) for name in scores))
    rows: list[tuple[Cell, ...]] = []
    for record in (*bare[:1], *merged):
        merge = record.at.get("merge")
        settings = [None if merge is None else _setting(merge["settings"].get(name)) for name in names]
        numbers = [_cell(record.values.get(name)) for name in scores]
        rows.append(("as it is" if merge is None else str(merge["method"]), *settings, *numbers))
    return Table(f"sweep-{number}", "All points", columns, tuple(rows))


def _figure(
    number: int, method: str, names: Sequence[str], main: str, bare: Sequence[Record], merged: Sequence[Record]
) -> Figure | None:
    """A curve over the first option that varies and is a number; one line for each value of the others."""
    numeric = [n for n in names if all(_is_number(r.at["merge"]["settings"].get(n)) for r in merged)]
    if not numeric:
        return None
    across, others = numeric[0], [name for name in names if name != numeric[0]]
    lines: dict[str, dict[float, float]] = {}
    for record in merged:
        settings = record.at["merge"]["settings"]
        label = ", ".join(f"{name} {_said(settings.get(name))}" for name in others) or "merged"
        lines.setdefault(label, {})[float(settings[across])] = float(record.values[main])
    drawn = tuple(
        Line(label, tuple(sorted(points)), tuple(points[x] for x in sorted(points)), color=color)
        for color, (label, points) in enumerate(lines.items())
    )
    levels = (Level("as it is", float(bare[0].values[main])),) if bare else ()
    panel = Panel("", across, f"{words(main)}, %", drawn, levels)
    alt = f"{words(main)} of the merged checkpoint over {across}."
    return Figure(f"sweep-{number}-curve", f"{method} over {across}", (panel,), alt, across=1)


def _varying(merged: Sequence[Record]) -> list[str]:
    settings = [record.at["merge"]["settings"] for record in merged]
    return [name for name in settings[0] if len({str(one.get(name)) for one in settings}) > 1]


def _scoring(at: Mapping[str, Any]) -> str:
    """What records of one curve share: everything but the merge."""
    return json.dumps({name: value for name, value in at.items() if name != "merge"}, sort_keys=True)


def _cell(value: Any) -> Cell:
    return None if value is None else Number(float(value)) if _is_number(value) else str(value)


def _setting(value: Any) -> Cell:
    """A number with the digits that it has."""
    return Number(float(value), None, len(f"{value:g}".partition(".")[2])) if _is_number(value) else _cell(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _said(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
