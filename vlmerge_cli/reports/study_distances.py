"""Distances between v and l in a study: over seeds, layer by layer, and how closely the drop follows them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import StatisticsError, correlation

from vlmerge_cli.reports.labels import natural
from vlmerge_cli.reports.study_records import Pick, Score, Study, Values


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of a distance with the drop over seed phases: of each seed, and of all points together."""

    by_seed: Values
    of_all: float
    num_points: int


def distance(study: Study, metric: str, pick: Pick, where: str = "all") -> Values:
    """Between v and l of an unmerged model, of all weights or of one layer (``where``)."""
    wanted = {"arch": pick.arch, "width": pick.width or study.width, "pair": "v,l", "where": where}
    return Values(
        {
            int(record.at["seed"]): float(record.values[metric])
            for record in study.of("distance")
            if wanted.items() <= record.at.items() and math.isclose(record.at["k_seed"], pick.k_seed, abs_tol=1e-9)
        }
    )


def layers(study: Study) -> list[str]:
    """Places with distances of their own, in the order of their numbers."""
    found = {str(r.at["where"]) for r in study.of("distance") if r.at.get("pair") == "v,l" and "seed" in r.at}
    return sorted(found - {"all"}, key=natural)


def correlations(study: Study, metric: str, score: Score, width: int = 0) -> Correlation:
    """Over the seed phases of the specific architecture that have both."""
    points: dict[int, list[tuple[float, float]]] = {}
    for k in study.k_seeds(width=width):
        pick = Pick(k_seed=k, width=width)
        lost, apart = study.drop(score, pick), distance(study, metric, pick)
        for seed in set(lost.by_seed) & set(apart.by_seed):
            points.setdefault(seed, []).append((apart.by_seed[seed], lost.by_seed[seed]))
    every = [point for seed in sorted(points) for point in points[seed]]
    by_seed = {seed: pearson(*zip(*points[seed], strict=True)) for seed in sorted(points)}
    known = {seed: r for seed, r in by_seed.items() if not math.isnan(r)}
    of_all = pearson(*zip(*every, strict=True)) if len(every) > 1 else math.nan
    return Correlation(Values(known), of_all, len(every))


def pearson(x: Iterable[float], y: Iterable[float]) -> float:
    """Pearson's r; NaN for fewer than two points or where one side does not vary."""
    try:
        return correlation(list(x), list(y))
    except StatisticsError:
        return math.nan
