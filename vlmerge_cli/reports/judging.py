"""The rule by which a claim holds or not, the same for all claims.

A claim is that a difference, in points, lies above a limit: above 0 where something is better, above minus ``CLOSE``
where it is as good. Over several seeds the differences are paired: with their mean d, their standard error
e = s / √n (s: standard deviation over the n seeds) and the limit c, the claim

    holds           if  d - 2 e > c  and every seed's difference is above c,
    does not hold   if  d + 2 e < c  and every seed's difference is below c,

and is otherwise undecided. With one seed, e is the sampling error of the n samples behind each of the two scores p and
q (in percent): e² = p (100 - p) / n + q (100 - q) / n. It says nothing about another seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from vlmerge_cli.reports.document import FAILS, HOLDS, UNDECIDED, UNMEASURED, Finding
from vlmerge_cli.reports.scores import Values


def judge(gap: Values, score: str, numbers: str, least: float = 0.0, digits: int = 2, beside: bool = False) -> Finding:
    """The rule for one difference a seed; ``numbers`` tells what they are made of."""
    differences = np.array(list(gap.by_seed.values()))
    mean, num = float(differences.mean()), len(differences)
    error = math.sqrt(gap.variance) if num == 1 else float(differences.std(ddof=1) / math.sqrt(num))
    if mean - 2 * error > least and (differences > least).all():
        outcome = HOLDS
    elif mean + 2 * error < least and (differences < least).all():
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
    x = np.array(list(points))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    found = {s: float(weights @ [values.by_seed[s] for values in points.values()]) for s in sorted(seeds)}
    return Values(found, float(weights**2 @ [values.variance for values in points.values()]))


def pearson(x: Iterable[float], y: Iterable[float]) -> float:
    """Pearson's r; NaN for fewer than two points or where one side does not vary."""
    one, two = np.array(list(x), float), np.array(list(y), float)
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return math.nan
    return float(np.corrcoef(one, two)[0, 1])
