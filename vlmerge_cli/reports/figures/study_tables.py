"""Tables 1 to 5 of the paper with our numbers beside its own, and the tables that only we have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vlmerge_cli.metrics import METRICS
from vlmerge_cli.reports import paper
from vlmerge_cli.reports.document import Cell, Column, Number, Table
from vlmerge_cli.reports.labels import percent
from vlmerge_cli.reports.study_distances import correlations, distance
from vlmerge_cli.reports.study_records import (
    ARCHITECTURES,
    CLASSIFICATION,
    FLICKR_IR,
    FLICKR_TR,
    IR,
    MAA,
    MATCHING,
    MB,
    MSA,
    NLVR2,
    RETRIEVAL,
    SEGMENTATION,
    SYMBOL,
    TR,
    VQA,
    ZERO_SHOT,
    Pick,
    Score,
    Study,
)  # fmt: skip

FINETUNED = ((VQA, "VQA"), (TR, "average TR"), (IR, "average IR"))
ZERO = ((ZERO_SHOT, "zero-shot"), (MATCHING, "ITM, zero-shot"))
#: The score that a setting is chosen by, where it is not the score itself.
CHOSEN_BY = {TR: RETRIEVAL, IR: RETRIEVAL, FLICKR_TR: FLICKR_TR, FLICKR_IR: FLICKR_TR}
#: For both Tables 3 and 4.
ROWS = {
    "MSA": "specific, not merged (MSA)", "MAA": "agnostic from scratch (MAA)", "MB": "merging baseline (MB)",
    "Ours": "seed phase, then merged (ours)",
}  # fmt: skip


def table_1(study: Study) -> Table:
    """MAA, MSA and the merging baseline (interpolation at 0.5), all without a seed phase."""
    picks = {"MAA": MAA, "MSA": MSA, "MB": MB}
    rows = [
        (ROWS[name], *_beside(study, pick, FINETUNED, paper.TABLE_1[name]), *_own(study, pick, ZERO))
        for name, pick in picks.items()
    ]
    note = "The specific model had no seed phase; it is merged by interpolation at α = 0.5."
    return Table("table-1", "Merging without a seed phase (the paper’s Table 1)", _columns("model"), tuple(rows), note)


def table_2(study: Study, method: str) -> Table:
    """Table 2a, b or c: one method by its setting (α, λ or γ), after the recipe's seed phase; its settings by rows."""
    letter = {"interpolation": "a", "arithmetic": "b", "regmean": "c"}[method]
    half = study.recipe
    published = paper.TABLE_2[method]
    tried = {at for score in (VQA, RETRIEVAL, ZERO_SHOT, MATCHING) for at in study.tried(score, half, method)}
    rows: list[tuple[Cell, ...]] = []
    for at in sorted(tried | set(published)):
        pick = half.merged(at, method)
        own = _beside(study, pick, FINETUNED, published.get(at, (None, None, None)))
        rows.append((f"{at:g}{_special(method, at)}", *own, *_own(study, pick, ZERO)))
    rows.append(("not merged", *_beside(study, half, FINETUNED, (None, None, None)), *_own(study, half, ZERO)))
    chosen = [
        f"{score.label} {best.at:g}"
        for score in (VQA, RETRIEVAL, ZERO_SHOT, MATCHING)
        if (best := study.best(score, half, method))
    ]
    note = f"The seed phase took {percent(half.k_seed)} of the steps."
    if chosen:
        note += f" Best {SYMBOL[method]} on the validation split: {'; '.join(chosen)}."
    title = f"{_name(method)} by {SYMBOL[method]} (the paper’s Table 2{letter})"
    return Table(f"table-2{letter}", title, _columns(SYMBOL[method]), tuple(rows), note)


def table_3(study: Study) -> Table:
    """NLVR², Flickr30k, classification and segmentation at the study's main width."""
    scores = (
        (NLVR2, "NLVR²"), (FLICKR_TR, "Flickr30k, TR"), (FLICKR_IR, "Flickr30k, IR"),
        (CLASSIFICATION, "classification"), (SEGMENTATION, "segmentation"),
    )  # fmt: skip
    note = "Classification: top-1, the paper’s on ImageNet-1k; segmentation: mIOU, the paper’s on ADE20k."
    return _recipe(study, "table-3", "More tasks (the paper’s Table 3)", scores, paper.TABLE_3, study.width, note=note)


def table_4(study: Study) -> Table:
    """The same four models at the first other width there is."""
    scores = (
        (VQA, "VQA"), (NLVR2, "NLVR²"), (TR, "retrieval, TR"), (IR, "retrieval, IR"),
        (FLICKR_TR, "Flickr30k, TR"), (FLICKR_IR, "Flickr30k, IR"),
    )  # fmt: skip
    width = next((w for w in study.widths if w != study.width), 0)
    title = f"A narrower model, width {width or '–'} (the paper’s Table 4: ViT-Tiny/16)"
    return _recipe(study, "table-4", title, scores, paper.TABLE_4, width, ZERO)


def widths(study: Study) -> Table:
    """What Table 4 is there to show: the same loss at both widths."""
    columns = [Column("seed phase")]
    shown = ((ZERO_SHOT, "retrieval, zero-shot"), (RETRIEVAL, "retrieval"), (VQA, "VQA"), (MATCHING, "ITM, zero-shot"))
    columns += [Column(f"width {width}", label) for _, label in shown for width in study.widths]
    phases = sorted({k for width in study.widths for k in study.k_seeds(width=width)})
    rows = [
        (percent(k), *(study.drop(s, Pick(k_seed=k, width=w)).number() for s, _ in shown for w in study.widths))
        for k in phases
    ]
    note = "Unmerged minus merged (interpolation, α = 0.5), in points."
    return Table("widths", "What merging loses, by width", tuple(columns), tuple(rows), note)


def table_5(study: Study) -> Table:
    """Metrics by rows, seed phases by columns; the drops below, Pearson’s r at the right."""
    phases = sorted({*paper.K_SEED, *study.k_seeds()})
    columns = [Column("distance")]
    for k in phases:
        columns += [Column("here", f"K {percent(k)}"), Column("paper", f"K {percent(k)}", True)]
    drops = ((RETRIEVAL, "r with the drop, fine-tuned"), (ZERO_SHOT, "r with the drop, zero-shot"))
    for score, group in drops:
        columns += [Column("each seed", group), Column("all points", group)]
        columns += [Column("paper", group, True)] if score is RETRIEVAL else []
    rows: list[tuple[Cell, ...]] = []
    for metric in METRICS:
        theirs, their_r = paper.TABLE_5.get(metric, ((), None))
        published = dict(zip(paper.K_SEED, theirs, strict=False))
        row: list[Cell] = [METRICS[metric].heading]
        for k in phases:
            here = distance(study, metric, Pick(k_seed=k)).number(METRICS[metric].digits)
            row += [here, _paper(published.get(k), metric)]
        for score, _ in drops:
            found = correlations(study, metric, score)
            row += [found.by_seed.number(3), None if math.isnan(found.of_all) else Number(found.of_all, None, 3)]
            row += [None if their_r is None else Number(their_r, None, 3)] if score is RETRIEVAL else []
        rows.append(tuple(row))
    for score, label in ((RETRIEVAL, "drop, retrieval fine-tuned"), (ZERO_SHOT, "drop, retrieval zero-shot")):
        row = [label]
        for k in phases:
            published = dict(zip(paper.K_SEED, paper.DROP, strict=True)) if score is RETRIEVAL else {}
            row += [study.drop(score, Pick(k_seed=k)).number(), _paper(published.get(k))]
        rows.append((*row, *[None] * (len(columns) - len(row))))
    note = (
        "Distances are between v and l of the unmerged model; drops are unmerged minus merged (α = 0.5). Pearson’s r "
        "is over the seed phases of each seed (mean and spread over seeds), and over all points of all seeds together."
    )
    return Table("table-5", "Distances and the loss (the paper’s Table 5)", tuple(columns), tuple(rows), note)


def finetuned_then_merged(study: Study) -> Table:
    """Not merged, merged before and merged after fine-tuning, by seed phase; only rows that have the last."""
    columns = [Column("seed phase")]
    shown = ((RETRIEVAL, "retrieval", paper.FOOTNOTE_4), (VQA, "VQA", None))
    for _, label, published in shown:
        columns += [Column("not merged", label)] + [Column("paper", label, True)] * (published is not None)
        columns += [Column("merged, then fine-tuned", label), Column("fine-tuned, then merged", label)]
        columns += [Column("paper: fine-tuned, then merged", label, True)] * (published is not None)
    rows: list[tuple[Cell, ...]] = []
    for k in study.k_seeds():
        pick = Pick(k_seed=k)
        after = pick.merged(order="after")
        if not any(study.values(score, after) for score, *_ in shown):
            continue
        row: list[Cell] = [percent(k)]
        for score, _, published in shown:
            kinds = [study.values(score, one).number() for one in (pick, pick.merged(), after)]
            said = [None, None] if published is None or k else [_paper(number) for number in reversed(published)]
            row += [kinds[0], *said[:1], *kinds[1:], *said[1:]] if published else kinds
        rows.append(tuple(row))
    title = "Merging after fine-tuning (the paper’s footnote 4)"
    return Table("footnote-4", title, tuple(columns), tuple(rows), "Merged by interpolation at α = 0.5.")


def everything(study: Study) -> Table:
    """Zero-shot beside fine-tuned, before merging and after, of every model."""
    shown = ((ZERO_SHOT, "retrieval, zero-shot"), (MATCHING, "ITM, zero-shot"), (RETRIEVAL, "retrieval"), (VQA, "VQA"))
    columns = [Column("model"), Column("seed phase"), Column("width")]
    columns += [Column(when, label) for _, label in shown for when in ("unmerged", "merged")]
    rows = [
        (ARCHITECTURES[arch], percent(k), Number(width, None, 0), *_before_and_after(study, pick, shown))
        for width in study.widths
        for arch in ARCHITECTURES
        for k in study.k_seeds(arch, width)
        for pick in [Pick(arch, k, width=width)]
    ]  # fmt: skip
    return Table("scores", "Zero-shot beside fine-tuned scores", tuple(columns), tuple(rows), "Merged: α = 0.5.")


def _before_and_after(study: Study, pick: Pick, scores: Sequence[tuple[Score, str]]) -> list[Cell]:
    return [study.values(score, one).number() for score, _ in scores for one in (pick, pick.merged())]


def _recipe(
    study: Study, name: str, title: str, scores: Sequence[tuple[Score, str]],
    published: Mapping[str, tuple[float, ...]], width: int, more: Sequence[tuple[Score, str]] = (), note: str = "",
) -> Table:  # fmt: skip
    """The four models of Tables 3 and 4; a score that nothing here has only shows the paper's."""
    every = (*scores, *more)
    chosen = {score: study.ours(CHOSEN_BY.get(score, score), width) for score, _ in every} if width else {}
    picks = {"MSA": replace(MSA, width=width), "MAA": replace(MAA, width=width), "MB": replace(MB, width=width)}
    own = {
        (row, score): study.values(score, pick).number()
        if width and (pick := picks.get(row) or chosen[score])
        else None
        for row in ROWS
        for score, _ in every
    }
    have = {score for (_, score), number in own.items() if number}
    columns = [Column("model")]
    for score, label in scores:
        columns += [Column("here", label)] * (score in have) + [Column("paper", label, True)]
    columns += [Column("here", label) for _, label in more]
    rows: list[tuple[Cell, ...]] = []
    for row, label in ROWS.items():
        cells: list[Cell] = [label]
        for (score, _), number in zip(scores, published[row], strict=True):
            cells += [own.get((row, score))] * (score in have) + [_paper(number)]
        rows.append((*cells, *(own.get((row, score)) for score, _ in more)))
    used = [f"{label}: {pick.at:g}" for score, label in every if (pick := chosen.get(score))]
    recipe = f"Ours: a seed phase of {percent(study.recipe.k_seed)} of the steps, interpolation at the α that is best "
    recipe += "on the validation split"
    recipe += f" ({'; '.join(used)})." if used else "."
    recipe += f" The paper took {paper.OURS_ALPHA:g} throughout."
    return Table(name, title, tuple(columns), tuple(rows), f"{recipe} {note}".strip())


def _columns(first: str) -> tuple[Column, ...]:
    pairs = [c for _, label in FINETUNED for c in (Column("here", label), Column("paper", label, True))]
    return (Column(first), *pairs, Column("zero-shot", "retrieval"), Column("zero-shot", "ITM"))


def _beside(
    study: Study, pick: Pick, scores: Sequence[tuple[Score, str]], published: Sequence[float | None]
) -> list[Cell]:
    return [
        cell
        for (score, _), number in zip(scores, published, strict=True)
        for cell in (study.values(score, pick).number(), _paper(number))
    ]


def _own(study: Study, pick: Pick, scores: Sequence[tuple[Score, str]]) -> list[Cell]:
    return [study.values(score, pick).number() for score, _ in scores]


def _paper(number: float | None, metric: str = "") -> Number | None:
    digits = {"l2": 1, "cosine": 3, "ssd": 3, "tssd": 3}.get(metric, 2)
    return None if number is None else Number(number, None, digits)


def _special(method: str, at: float) -> str:
    words = {("interpolation", 0): "l only", ("interpolation", 1): "v only", ("arithmetic", 0): "the seed’s weights"}
    return f" ({words[method, int(at)]})" if (method, at) in words else ""


def _name(method: str) -> str:
    return {"regmean": "RegMean", "arithmetic": "Modality arithmetic"}.get(method, method.capitalize())
