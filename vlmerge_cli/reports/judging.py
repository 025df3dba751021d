"""The rule by which a claim holds or not, the same for all claims.

A claim is that a difference, in points, lies above a limit: above 0 where something is better, above minus ``CLOSE``
where it is as good. Over several seeds the differences are paired: with their mean d, their standard error
e = s / √n (s: standard deviation over the n seeds) and the limit c, the claim

    holds           if  d - 2 e > c  and every seed's difference is above c,
    does not hold   if  d + 2 e < c  and every seed's difference is below c,

and is otherwise undecided. With one seed, e is the sampling error of the n samples behind each of the two scores p and
q (in percent): e² = p (100 - p) / n + q (100 - q) / n. It says nothing about another seed.

Sums are exact or correctly rounded (``statistics``, ``fsum``), not BLAS's: the same bytes everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import StatisticsError, correlation, fmean

from vlmerge_cli.reports.document import FAILS, HOLDS, UNDECIDED, UNMEASURED, Finding
from vlmerge_cli.reports.scores import Values


def judge(gap: Values, score: str, numbers: str, least: float = 0.0, digits: int = 2, beside: bool = False) -> Finding:
    """The rule for one difference a seed; ``numbers`` tells what they are made of."""
    differences = list(gap.by_seed.values())
    mean, num = gap.mean, len(differences)
    error = math.sqrt(gap.variance) if gap.spread is None else gap.spread / math.sqrt(num)
    if mean - 2 * error > least and min(differences) > least:
        outcome = HOLDS
    elif mean + 2 * error < least and max(differences) < least:
        outcome = FAILS
    else:
        outcome = UNDECIDED
    within = f" ± {2 * error:.{digits}f}" if math.isfinite(error) else ""
    limit = f", must be above {least:+g}" if least else ""
    runs = f"{num} seeds" if num > 1 else "one seed" + (", sampling error" if within else "")
    return Finding(score, outcome, f"{numbers}: {mean:+.{digits}f}{within}{limit} ({runs})", mean, error, least, beside)


def together(findings: Iterable[Finding]) -> str:
    """One outcome of several: a claim fails with its first score, and holds when it holds on all.

    Scores of a kind that the paper does not have count only where there is no other. A claim of which a part lacks
    records can fail, but was not measured as a whole.
    """
    found = list(findings)
    outcomes = {finding.outcome for finding in found if not finding.beside} or {finding.outcome for finding in found}
    for outcome in (FAILS, UNMEASURED, UNDECIDED, HOLDS):
        if outcome in outcomes:
            return outcome
    return UNMEASURED


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


def pearson(x: Iterable[float], y: Iterable[float]) -> float:
    """Pearson's r; NaN for fewer than two points or where one side does not vary."""
    try:
        return correlation(list(x), list(y))
    except StatisticsError:
        return math.nan
