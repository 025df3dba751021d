"""What claims are made of: one model above others, a fall along a setting, a gap of two numbers; each a finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import fmean

from vlmerge_cli.reports.document import UNMEASURED, Finding
from vlmerge_cli.reports.labels import percent
from vlmerge_cli.reports.study_records import Pick, Score, Study, Values
from vlmerge_cli.reports.verdicts.rule import judge

Findings = Iterator[Finding]


def above(
    study: Study, score: Score, first: tuple[str, Pick], others: Mapping[str, Pick], least: float = 0.0
) -> Findings:
    """Whether ``first`` is above each of ``others`` by more than ``least`` points.

    Where some of them have no record, that is a finding of its own: then the claim was not measured as a whole.
    """
    values = study.values(score, first[1])
    missing = []
    for name, pick in others.items():
        found = list(gap(score, values, study.values(score, pick), (first[0], name), least))
        yield from found
        if not found:
            missing.append(name)
    if 0 < len(missing) < len(others):
        yield lacking(score, f"no record of {', '.join(missing)}")


def ours(study: Study, scores: Iterable[Score], others: Mapping[str, Pick], least: float = 0.0) -> Findings:
    """The recipe's merge against ``others``; all of the fine-tuned scores are part of the claim."""
    found: dict[Score, list[Finding]] = {}
    for score in scores:
        ours = study.ours(score)
        found[score] = list(above(study, score, (f"ours α {ours.at:g}", ours), others, least)) if ours else []
        yield from found[score]
    without = [score for score in found if score.finetuned and not found[score]]
    if any(found.values()):
        yield from (lacking(score, "no record") for score in without)


def gap(score: Score, one: Values, other: Values, names: tuple[str, str], least: float = 0.0, digits: int = 2
         ) -> Findings:  # fmt: skip
    """Whether ``one`` minus ``other``, seed by seed, lies above ``least`` points."""
    if gap := one.minus(other):
        numbers = f"{names[0]} {one.within(gap).number(digits)}, {names[1]} {other.within(gap).number(digits)}"
        yield judge(gap, score.label, numbers, least, digits, not score.finetuned)


def lacking(score: Score, what: str) -> Finding:
    """A comparison that no record is there for."""
    return Finding(score.label, UNMEASURED, what, beside=not score.finetuned)


def falls(score: Score, points: Mapping[float, Values], what: str = "", place: Callable[[float], str] | None = None
           ) -> Findings:  # fmt: skip
    """Whether values fall along ``points``, by their least-squares slope."""
    points = {at: values for at, values in points.items() if values}
    if found := slope(points):
        shown = ", ".join(f"{values.number()} at {(place or percent)(at)}" for at, values in points.items())
        turned = Values({seed: -value for seed, value in found.by_seed.items()}, found.variance)
        yield judge(turned, score.label, f"{what}{shown}; fall from 0 to 1", beside=not score.finetuned)


def slope(points: Mapping[float, Values]) -> Values:
    """Each seed's least-squares slope over ``points`` (x: values), for the seeds that have all of two or more."""
    seeds = set.intersection(*(set(v.by_seed) for v in points.values())) if len(points) > 1 else set()
    if not seeds:
        return Values()
    middle = fmean(points)
    length = math.fsum((x - middle) ** 2 for x in points)
    weights = [(x - middle) / length for x in points]
    found = {
        s: math.fsum(w * v.by_seed[s] for w, v in zip(weights, points.values(), strict=True)) for s in sorted(seeds)
    }
    return Values(found, math.fsum(w * w * v.variance for w, v in zip(weights, points.values(), strict=True)))
