"""The rule by which a claim holds or not, the same for all claims; in words for the page, and as code."""

from __future__ import annotations

import math
from collections.abc import Iterable

from vlmerge_cli.reports.document import FAILS, HOLDS, UNDECIDED, UNMEASURED, Finding
from vlmerge_cli.reports.study_records import Values

#: Points that count as equal, and that "much" has to exceed: the paper's Table 3 calls gaps of up to 1.93 close.
CLOSE = 2.0
#: Standard errors on both sides of a mean within which nothing is decided.
ERRORS = 2

WORDS = (
    f"A claim says that a difference lies above a limit: above 0 points where something is better, above −{CLOSE:g} "
    f"where it is as good (the paper calls gaps of up to 1.9 points close), above {CLOSE:g} where it is much better.",
    "The difference is taken within each seed. The claim holds on a score if the mean lies more than two standard "
    "errors above the limit and every seed lies above it; it does not hold if the same is true below; otherwise it is "
    "undecided. With one seed, the sampling error of the test set stands for the spread and says nothing about another "
    "seed.",
    "A claim holds if it holds on all of its scores, and fails if it fails on one. Zero-shot scores, which the paper "
    "does not have, are shown and count only where there is no other. Each mark is one comparison; a claim that lacks "
    "some of its comparisons was not measured.",
    "Numbers behind ± are two standard errors here, and one standard deviation over seeds in the tables.",
)  # fmt: skip


def judge(gap: Values, score: str, numbers: str, least: float = 0.0, digits: int = 2, beside: bool = False) -> Finding:
    """The rule for one difference a seed; ``numbers`` tells what they are made of.

    With their mean d, its standard error e = s / √n (s: standard deviation over n seeds) and the limit c = ``least``
    the claim holds if d - 2 e > c and every difference is above c, and does not if d + 2 e < c and every one is below.
    With one seed, e is the sampling error of the n samples behind each of two scores p and q in percent:
    e² = p (100 - p) / n + q (100 - q) / n; where their number is not known, nothing is decided.
    """
    differences = list(gap.by_seed.values())
    mean, num = gap.mean, len(differences)
    error = math.sqrt(gap.variance) if gap.spread is None else gap.spread / math.sqrt(num)
    within = ERRORS * error
    if mean - within > least and min(differences) > least:
        outcome = HOLDS
    elif mean + within < least and max(differences) < least:
        outcome = FAILS
    else:
        outcome = UNDECIDED
    spread = f" ± {within:.{digits}f}" if math.isfinite(error) else ""
    limit = f", must be above {least:+g}" if least else ""
    runs = f"{num} seeds" if num > 1 else "one seed" + (", sampling error" if spread else "")
    numbers = f"{numbers}: {mean:+.{digits}f}{spread}{limit} ({runs})"
    return Finding(score, outcome, numbers, mean, error, within, least, beside)


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
