"""The page of a training run: curves of its losses and scores, the last and the best of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vlmerge_cli.records import Record
from vlmerge_cli.reports.document import Column, Figure, Line, Number, Panel, Section, Table
from vlmerge_cli.reports.labels import words

KINDS = ("train", "validation")
_LOSSES = ("loss", "itc", "itm", "mlm")
_SPEEDS = ("samples_per_second", "tokens_per_second")
Curves = dict[str, dict[str, dict[int, float]]]  # by kind, name and step
_SPLIT = {"train": "training", "validation": "validation"}


def subtitle(records: Sequence[Record]) -> str:
    own = [record for record in records if record.kind in KINDS]
    phases = ", then ".join(dict.fromkeys(str(r.at["phase"]) for r in own if "phase" in r.at))
    return f"{max(int(r.at['step']) for r in own)} steps{f' ({phases})' if phases else ''}."


def sections(records: Sequence[Record]) -> list[Section]:
    """Where each score ended and was best, then curves of losses, scores and speed over the steps."""
    curves = {kind: _curves(r for r in records if r.kind == kind) for kind in KINDS}
    names = sorted(dict.fromkeys(name for kind in KINDS for name in curves[kind]), key=lambda name: name != "loss")
    groups = (
        ("losses", "Losses", [name for name in names if _is_loss(name)]),
        ("scores", "Scores", [name for name in names if not _is_loss(name) and name not in (*_SPEEDS, "lr")]),
        ("machine", "Learning rate and speed", [name for name in names if name in ("lr", *_SPEEDS)]),
    )
    ends = _phase_ends(records)
    figures = tuple(
        Figure(
            slug, title, tuple(panel for name in own for panel in _panels(name, curves, ends)),
            f"Curves over the steps: {_listed(own)}.", "Dotted: where a phase ends." if ends else "", across=3,
        )
        for slug, title, own in groups if own
    )  # fmt: skip
    table = _table(curves)
    ended = [Section("Where it ended", (table,))] if table else []
    return [*ended, Section("Curves", figures)]


def _curves(records: Iterable[Record]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.values.items():
            if isinstance(value, float | int):
                found.setdefault(name, {})[int(record.at["step"])] = float(value)
    return found


def _panels(name: str, curves: Curves, ends: tuple[float, ...]) -> list[Panel]:
    """Training and validation in one panel, or in two where one is a share and the other in percent."""
    lines = []
    for color, kind in enumerate(KINDS):
        if points := sorted(curves[kind].get(name, {}).items()):
            x, y = zip(*points, strict=True)
            lines.append(Line(_SPLIT[kind], tuple(map(float, x)), y, color=color, plain=kind == "train"))
    tops = [max(line.y) for line in lines]
    if not _is_loss(name) and len(tops) == 2 and (tops[0] <= 1) != (tops[1] <= 1):
        return [Panel(f"{words(name)}, {line.label}", "step", lines=(line,), marks=ends) for line in lines]
    return [Panel(words(name), "step", lines=tuple(lines), marks=ends)]


def _table(curves: Curves) -> Table | None:
    """Of validation where there is one, else of training."""
    kind = "validation" if curves["validation"] else "train"
    rows: list[tuple[str | Number, ...]] = []
    for name, points in sorted(curves[kind].items(), key=lambda item: item[0] != "loss"):
        if name in ("lr", *_SPEEDS):
            continue
        choose = min if _is_loss(name) else max
        last = max(points)
        best = choose(sorted(points), key=lambda step, points=points: points[step])  # type: ignore[misc]
        digits = 2 if max(points.values()) > 10 else 4
        rows.append((words(name), Number(points[last], None, digits), Number(last, None, 0),
                     Number(points[best], None, digits), Number(best, None, 0)))  # fmt: skip
    if not rows:
        return None
    ends = [Column(title, group) for group in ("last", "best") for title in ("value", "step")]
    note = "Best is the lowest loss and the highest score."
    return Table("last-and-best", f"Last and best, {_SPLIT[kind]}", (Column("score"), *ends), tuple(rows), note)


def _phase_ends(records: Sequence[Record]) -> tuple[float, ...]:
    """The last step of every phase but the last."""
    last: dict[str, int] = {}
    for record in records:
        if record.kind in KINDS and "phase" in record.at:
            phase = str(record.at["phase"])
            last[phase] = max(last.get(phase, 0), int(record.at["step"]))
    return tuple(sorted(float(step) for step in last.values()))[:-1]


def _is_loss(name: str) -> bool:
    return name in _LOSSES or re.search(r"(^|_)loss($|_)", name) is not None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(words(name) for name in names)
