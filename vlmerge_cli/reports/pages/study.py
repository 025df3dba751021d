"""The page of ``vlmerge study``: verdicts first, then the paper's tables and figures with ours beside them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmerge_cli.records import Record
from vlmerge_cli.reports.document import (
    UNMEASURED,
    Block,
    Column,
    Items,
    Number,
    Paragraph,
    Section,
    Table,
    Verdict,
    Verdicts,
)  # fmt: skip
from vlmerge_cli.reports.figures import study_figures as figures
from vlmerge_cli.reports.figures import study_tables as tables
from vlmerge_cli.reports.study_records import (
    CLASSIFICATION,
    MATCHING,
    NLVR2,
    RETRIEVAL,
    SEGMENTATION,
    SYMBOL,
    VQA,
    ZERO_SHOT,
    Study,
)  # fmt: skip
from vlmerge_cli.reports.verdicts.claims import verdicts
from vlmerge_cli.reports.verdicts.rule import WORDS

KINDS = ("study", "score")


def sections(records: Sequence[Record]) -> list[Section]:
    """Verdicts, tables and figures by subject, what was run and what is missing; empty parts are left out."""
    study = Study(records)
    found = verdicts(study)
    parts: list[tuple[str, list[Block | None]]] = [
        ("The paper’s claims", [Items(WORDS), Verdicts(found)]),
        ("The seed phase", [tables.table_1(study), figures.figure_3(study)]),
        ("Merge methods", [*(tables.table_2(study, method) for method in SYMBOL), figures.settings(study)]),
        ("Architectures", [figures.figure_4(study)]),
        ("More tasks, another width", [
            tables.table_3(study), tables.table_4(study),
            _if_any(tables.widths(study)) if len(study.widths) > 1 else None,
        ]),
        ("Distances", [tables.table_5(study), figures.scatter(study), figures.heat(study)]),
        ("Merging after fine-tuning", [_if_any(tables.finetuned_then_merged(study))]),
        ("All scores", [_if_any(tables.everything(study))]),
        ("Training", [figures.training(study)]),
        ("What was run", [facts(study), *costs(study.of("cost"))]),
        ("What is missing", [_missing(study, found), _failures(study)]),
    ]  # fmt: skip
    return [Section(title, kept) for title, blocks in parts if (kept := tuple(b for b in blocks if b is not None))]


def subtitle(records: Sequence[Record]) -> str:
    study = Study(records)
    preset = f"Preset {study.preset}: " if study.preset else ""
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) != 1 else ''}"
    widths = " and ".join(str(width) for width in study.widths)
    return (
        f"{preset}{seeds}{f', width {widths}' if widths else ''}. The experiment of “An Empirical Study of Multimodal "
        "Model Merging” (arXiv 2304.14933) at a small size, beside the paper’s own numbers, which are in grey italics. "
        "The two are of different models, data and tasks: their order can be compared, not their height."
    )


def facts(study: Study) -> Table | None:
    """The settings that the study recorded of itself."""
    rows = tuple((str(name).replace("_", " "), _said(value) or None) for name, value in study.info.items())
    columns = (Column("setting"), Column("value"))
    return Table("facts", "Settings of the study", columns, rows) if rows else None


def costs(records: Iterable[Record]) -> list[Block]:
    """Seconds by kind of node, the machines and versions they were spent on, and the commands."""
    found = list(records)
    seconds: dict[str, list[float]] = defaultdict(list)
    for record in found:
        seconds[str(record.at.get("kind", "node"))].append(float(record.values.get("seconds", 0.0)))
    if not seconds:
        return []
    rows = [
        (kind, Number(len(own), None, 0), Number(sum(own) / 60, None, 1), Number(sum(own) / len(own), None, 1))
        for kind, own in sorted(seconds.items(), key=lambda item: -sum(item[1]))
    ]
    whole = [one for own in seconds.values() for one in own]
    rows.append(("all", Number(len(whole), None, 0), Number(sum(whole) / 60, None, 1),
                 Number(sum(whole) / len(whole), None, 1)))  # fmt: skip
    names = ("cpu", "gpu", "num_cpus", "memory_gb", "workers", "python", "torch", "vlmerge", "commit")
    machines = Counter(tuple(record.at.get(name) for name in names) for record in found)
    texts = []
    for machine, num in machines.most_common():
        about = [f"{name.replace('_', ' ')} {value}" for name, value in zip(names, machine, strict=True) if value]
        texts.append(f"{num} nodes on: {', '.join(about) or 'a machine without a description'}")
    dates = sorted({str(record.at["date"]) for record in found if record.at.get("date")})
    if dates:
        texts.append(f"Run from {dates[0]} to {dates[-1]}.")
    commands = dict.fromkeys(str(record.at["command"]) for record in found if record.at.get("command"))
    texts += [f"Command: {command}" for command in commands]
    columns = (Column("kind of node"), Column("nodes"), Column("minutes"), Column("seconds a node"))
    note = "Minutes add up over workers side by side."
    return [Table("costs", "What it cost", columns, tuple(rows), note), Items(tuple(texts))]


def _missing(study: Study, found: Sequence[Verdict]) -> Block:
    scores = (ZERO_SHOT, MATCHING, RETRIEVAL, VQA, NLVR2, CLASSIFICATION, SEGMENTATION)
    have = {(r.at["task"], int(r.at.get("finetune_steps", 0)) > 0) for r in study.of("score")}
    texts = [
        f"No score of {score.label}{', fine-tuned' if score.finetuned else ''}."
        for score in scores
        if (score.task, score.finetuned) not in have
    ]
    kinds = {"study": "settings", "distance": "distances", "curve": "training curves", "cost": "costs"}
    texts += [f"No {words}." for kind, words in kinds.items() if not study.of(kind)]
    if len(study.widths) < 2:
        texts.append("Only one width, so nothing stands beside the paper’s Table 4.")
    texts += [f"Not measured: {v.claim}" for v in found if v.outcome == UNMEASURED]
    return Items(tuple(texts)) if texts else Paragraph("Every kind of record is there. Cells with – have no record.")


def _failures(study: Study) -> Table | None:
    rows = tuple((str(r.at.get("node", "")), str(r.values.get("error", ""))) for r in study.of("failure"))
    columns = (Column("node"), Column("error"))
    note = "What needed them is missing above."
    return Table("failures", "Nodes that failed", columns, rows, note) if rows else None


def _if_any(table: Table) -> Table | None:
    """The table, if one of its cells beside the first is a number of ours."""
    own = [place for place, column in enumerate(table.columns) if place and not column.paper]
    return table if any(isinstance(row[place], Number) for row in table.rows for place in own) else None


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_said(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
