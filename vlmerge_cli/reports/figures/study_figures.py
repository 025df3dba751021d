"""Figures 3 and 4 of the paper with its own points in panels beside ours, and the figures that only we have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import fmean

from vlmerge_cli.metrics import METRICS
from vlmerge_cli.records import Record
from vlmerge_cli.reports import paper
from vlmerge_cli.reports.document import Figure, Heat, Level, Line, Panel
from vlmerge_cli.reports.study_distances import correlations, distance, layers
from vlmerge_cli.reports.study_records import (
    ARCHITECTURES,
    MAA,
    MATCHING,
    RETRIEVAL,
    SYMBOL,
    VQA,
    ZERO_SHOT,
    Pick,
    Score,
    Study,
    Values,
)  # fmt: skip

BEFORE, AFTER, BASELINE = 0, 1, 5  # colours
SCORES = ((VQA, "accuracy"), (RETRIEVAL, "mean of TR and IR"), (ZERO_SHOT, "mean of TR and IR"), (MATCHING, "accuracy"))
PHASE = "seed phase, % of steps"
SCRATCH = "agnostic from scratch"


def figure_3(study: Study) -> Figure | None:
    """Before and after merging over the length of the seed phase; the drop of both studies in one panel."""

    def own(score: Score) -> list[Line]:
        return [
            _line(label, {100 * k: study.values(score, way(Pick(k_seed=k))) for k in study.k_seeds()}, color)
            for label, way, color in _WAYS
        ]

    def published(points: Mapping[str, Mapping[float, float]]) -> list[Line]:
        return [_published(f"{when} merging", {100 * k: y for k, y in points[when].items()}, color)
                for when, color in (("before", BEFORE), ("after", AFTER))]  # fmt: skip

    panels = _own_and_published(
        study, own, {VQA: published(paper.FIGURE_3_VQA), RETRIEVAL: published(paper.FIGURE_3_RETRIEVAL)}, PHASE
    )
    if not panels:
        return None
    lost = [
        _line(f"lost, {score.label}", {100 * k: study.drop(score, Pick(k_seed=k)) for k in study.k_seeds()}, color)
        for score, color in ((RETRIEVAL, 2), (ZERO_SHOT, 3))
    ]
    drops = {100 * k: drop for k, drop in zip(paper.K_SEED, paper.DROP, strict=True)}
    lines = [*(line for line in lost if line.x), _published("lost, retrieval", drops, 2)]
    panels.append(Panel("What merging loses", PHASE, "points", tuple(lines)))
    return Figure(
        "figure-3", "The length of the seed phase (the paper’s Figure 3)", tuple(panels),
        "Scores before and after merging over the length of the seed phase, the paper’s in panels of their own.",
        "Merged by interpolation at α = 0.5; bars are the standard deviation over seeds. Hollow and dashed: the "
        "paper’s, as far as its text and tables give the numbers behind its figure.", across=4,
    )  # fmt: skip


def figure_4(study: Study) -> Figure | None:
    """Before and after merging by what the experts own, at a seed phase of half the steps."""
    names = [arch for arch in ARCHITECTURES if arch != "agnostic"]
    ticks = tuple((float(place), ARCHITECTURES[arch].replace(" ", "\n")) for place, arch in enumerate(names))

    def own(score: Score) -> list[Line]:
        return [
            _line(label, {place + _ASIDE[color]: study.values(score, way(replace(study.recipe, arch=arch)))
                          for place, arch in enumerate(names)}, color, marks_only=True)
            for label, way, color in _WAYS
        ]  # fmt: skip

    half = paper.TABLE_2["interpolation"][0.5]
    before = _published("before merging", {_ASIDE[BEFORE]: paper.FIGURE_3_RETRIEVAL["before"][0.5]}, BEFORE)
    after = {score: _published("after merging", {_ASIDE[AFTER]: value}, AFTER)
             for score, value in ((VQA, half.vqa), (RETRIEVAL, half.mean_recall))}  # fmt: skip
    panels = _own_and_published(study, own, {VQA: [after[VQA]], RETRIEVAL: [before, after[RETRIEVAL]]}, "", ticks)
    if not panels:
        return None
    return Figure(
        "figure-4", "What the experts own (the paper’s Figure 4)", tuple(panels),
        "Scores before and after merging for four architectures, with the agnostic model as a line.",
        f"Seed phase of {100 * study.recipe.k_seed:g} % of the steps; merged by interpolation at α = 0.5. "
        "The paper gives no numbers for the custom architectures, only the picture.",
    )  # fmt: skip


def settings(study: Study) -> Figure | None:
    """Scores over α, λ and γ, one row of panels a score."""
    half = study.recipe
    panels = []
    for score, unit in SCORES:
        before = study.values(score, half)
        levels = (Level("not merged", before.mean, BEFORE),) if before else ()
        for method, symbol in SYMBOL.items():
            tried = study.tried(score, half, method)
            line = _line("merged", {at: study.values(score, half.merged(at, method)) for at in tried}, AFTER)
            if len(line.x) > 1:
                title = f"{method.replace('regmean', 'RegMean')}, {score.label}"
                panels.append(Panel(title, symbol, f"{unit}, %", (line,), levels))
    if not panels:
        return None
    return Figure(
        "settings", "The settings of the methods", tuple(panels),
        "Scores of merged models over alpha, lambda and gamma, with the unmerged model as a line.",
        f"Seed phase of {100 * half.k_seed:g} % of the steps.", across=3,
    )  # fmt: skip


def scatter(study: Study) -> Figure | None:
    """The drop over each distance, one point a model and seed."""
    panels = []
    for score, words in ((RETRIEVAL, "fine-tuned"), (ZERO_SHOT, "zero-shot")):
        for metric in METRICS:
            lines = []
            for color, seed in enumerate(study.seeds):
                points = []
                for k in study.k_seeds():
                    apart = distance(study, metric, Pick(k_seed=k)).by_seed.get(seed)
                    lost = study.drop(score, Pick(k_seed=k)).by_seed.get(seed)
                    if apart is not None and lost is not None:
                        points.append((apart, lost))
                if points:
                    x, y = zip(*sorted(points), strict=True)
                    lines.append(Line(f"seed {seed}", x, y, color=color))
            if lines:
                found = correlations(study, metric, score)
                r = "" if math.isnan(found.of_all) else f", r = {found.of_all:.3f}"
                heading = METRICS[metric].heading
                panels.append(Panel(f"{heading}{r}", heading, f"points lost, {words}", tuple(lines)))
    if not panels:
        return None
    return Figure(
        "distances", "What is lost, by distance", tuple(panels),
        "Points of retrieval lost by merging over the four distances between the experts.",
        "One line a seed, over its seed phases; r is over all points.", across=4,
    )  # fmt: skip


def heat(study: Study) -> Figure | None:
    """Distances layer by layer, mean over seeds."""
    places, phases = layers(study), study.k_seeds()
    panels = []
    for metric in METRICS:
        cells = [[distance(study, metric, Pick(k_seed=k), place) for k in phases] for place in places]
        if any(any(row) for row in cells):
            values = tuple(tuple(v.mean if v else math.nan for v in row) for row in cells)
            columns = tuple(f"{100 * k:g} %" for k in phases)
            rows = tuple(place.replace("layers.", "layer ") for place in places)
            heat = Heat(columns, rows, values, METRICS[metric].digits)
            panels.append(Panel(METRICS[metric].heading, "seed phase", heat=heat))
    if not panels:
        return None
    return Figure(
        "layers", "Distances layer by layer", tuple(panels),
        "Heat maps of the four distances: layers by rows, seed phases by columns.",
        "Between v and l, mean over seeds; each metric on its own scale.",
    )  # fmt: skip


def training(study: Study) -> Figure | None:
    """Losses over the steps: the seed stage, then the specific model's own; mean over seeds."""
    records = [r for r in study.of("curve") if int(r.at["width"]) == study.width]
    part = "train" if any(r.at["part"] == "train" for r in records) else "validation"
    records = [r for r in records if r.at["part"] == part]
    panels = []
    for name, title in (("loss", "all objectives"), ("itc", "ITC"), ("itm", "ITM"), ("mlm", "MLM")):
        lines = []
        for color, k in enumerate(study.k_seeds()):
            own = _steps(records, name, arch="specific", k_seed=k)
            seed = _steps(records, name, arch="agnostic", k_seed=k, stage="seed") if k else {}
            if own:
                points = sorted((seed | own).items())
                x, y = zip(*points, strict=True)
                lines.append(Line(f"seed phase {100 * k:g} %", x, y, color=color, plain=True))
        whole = _steps(records, name, arch="agnostic", k_seed=0.0, stage="pretrain")
        if whole:
            x, y = zip(*sorted(whole.items()), strict=True)
            lines.append(Line("agnostic", x, y, color=BASELINE, plain=True))
        if lines:
            panels.append(Panel(title, "step", "training loss" if part == "train" else "validation loss", tuple(lines)))
    if not panels:
        return None
    return Figure(
        "training", "Pre-training", tuple(panels),
        "Losses over the steps, by length of the seed phase.",
        f"Width {study.width}, mean over seeds; a seed phase is trained with shared weights, so its curve is the "
        "agnostic model’s.",
    )  # fmt: skip


def _steps(records: Iterable[Record], name: str, **wanted: object) -> dict[float, float]:
    found: dict[float, list[float]] = {}
    for record in records:
        if all(_equal(record.at.get(key), value) for key, value in wanted.items()) and name in record.values:
            found.setdefault(float(record.at["step"]), []).append(float(record.values[name]))
    return {step: fmean(values) for step, values in found.items()}


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, abs_tol=1e-9)
    return one == other


def _line(label: str, points: Mapping[float, Values], color: int, marks_only: bool = False) -> Line:
    known = {x: values for x, values in points.items() if values}
    spreads = tuple(values.spread or 0.0 for values in known.values())
    return Line(
        label, tuple(known), tuple(values.mean for values in known.values()), spreads if any(spreads) else (),
        color, marks_only=marks_only,
    )  # fmt: skip


def _published(label: str, points: Mapping[float, float], color: int) -> Line:
    return Line(label, tuple(points), tuple(points.values()), color=color, paper=True)


def _own_and_published(
    study: Study, own: Callable[[Score], list[Line]], published: Mapping[Score, list[Line]], x_label: str,
    ticks: tuple[tuple[float, str], ...] = (),
) -> list[Panel]:  # fmt: skip
    """A panel for every score that has points, the paper's behind those that it has too."""
    panels = []
    for score, unit in SCORES:
        lines = tuple(line for line in own(score) if line.x)
        if not lines:
            continue
        baseline = study.values(score, MAA)
        levels = (Level(SCRATCH, baseline.mean, BASELINE),) if baseline else ()
        panels.append(Panel(score.label, x_label, f"{unit}, %", lines, levels, x_ticks=ticks))
        if score in published:
            name = {VQA: "VQA", RETRIEVAL: "COCO"}[score]
            scratch = paper.TABLE_1["MAA"]
            level = Level(SCRATCH, scratch.vqa if score is VQA else scratch.mean_recall, BASELINE, paper=True)
            panels.append(Panel(f"{name}, the paper’s", x_label, f"{unit}, %", tuple(published[score]), (level,),
                                x_ticks=ticks))  # fmt: skip
    return panels


def _as_is(pick: Pick) -> Pick:
    return pick


_WAYS = (("before merging", _as_is, BEFORE), ("after merging", Pick.merged, AFTER))
_ASIDE = {BEFORE: -0.08, AFTER: 0.08}  # so that two marks of one architecture stand side by side
