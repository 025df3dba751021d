from __future__ import annotations

import math

import numpy as np
import pytest

from vlmerge_cli.reports.document import FAILS, HOLDS, UNDECIDED, UNMEASURED, Finding
from vlmerge_cli.reports.study_distances import pearson
from vlmerge_cli.reports.study_records import Values
from vlmerge_cli.reports.verdicts.comparisons import slope
from vlmerge_cli.reports.verdicts.rule import judge, together


def seeds(*values: float) -> Values:
    return Values(dict(enumerate(values, 1)))


@pytest.mark.parametrize(
    ("gap", "least", "outcome"),
    [
        (seeds(5, 6, 7), 0, HOLDS),
        (seeds(-5, -6, -7), 0, FAILS),
        (seeds(5, 6, -1), 0, UNDECIDED),  # one seed says the opposite
        (seeds(0.5, 10, 1), 0, UNDECIDED),  # all above, but 2 standard errors are 6.2 and the mean 3.8
        (seeds(-1, -2, 1), 0, UNDECIDED),
        (seeds(0, 0, 0), 0, UNDECIDED),  # nothing is above 0
        (seeds(-1, -1.1, -0.9), -2, HOLDS),  # lower, but as good
        (seeds(-3, -3.1, -2.9), -2, FAILS),
        (seeds(3, 3.1, 2.9), 2, HOLDS),
        (seeds(1, 1.1, 0.9), 2, FAILS),
        (seeds(4, 6), 0, HOLDS),  # standard error 1
        (seeds(1, 6), 0, UNDECIDED),  # standard error 2.5
    ],
)
def test_the_rule(gap: Values, least: float, outcome: str) -> None:
    assert judge(gap, "score", "", least).outcome == outcome


def test_standard_errors_are_those_of_the_mean() -> None:
    finding = judge(seeds(5, 6, 8.5), "score", "a 6, b 0")
    assert finding.gap == pytest.approx(6.5)
    assert finding.error == pytest.approx(np.std([5, 6, 8.5], ddof=1) / math.sqrt(3))
    assert finding.numbers == "a 6, b 0: +6.50 ± 2.08 (3 seeds)"


def test_one_seed_is_judged_by_the_sampling_error() -> None:
    """40 % and 44 % of 1000: the difference has a standard error of 2.20 points, of 10 000 it has 0.70."""
    for samples, outcome in ((1000, UNDECIDED), (10_000, HOLDS)):
        pair = [Values({1: share}, share * (100 - share) / samples) for share in (44.0, 40.0)]
        finding = judge(pair[0].minus(pair[1]), "score", "")
        assert finding.outcome == outcome
        assert finding.error == pytest.approx(math.sqrt((44 * 56 + 40 * 60) / samples))
        assert "one seed, sampling error" in finding.numbers


def test_one_seed_without_a_number_of_samples_decides_nothing() -> None:
    finding = judge(Values({1: 50.0}), "score", "")
    assert finding.outcome == UNDECIDED
    assert "±" not in finding.numbers


def finding(outcome: str, beside: bool = False) -> Finding:
    return Finding("score", outcome, "", beside=beside)


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ([], UNMEASURED),
        ([finding(HOLDS), finding(HOLDS)], HOLDS),
        ([finding(HOLDS), finding(UNDECIDED)], UNDECIDED),
        ([finding(HOLDS), finding(FAILS), finding(UNMEASURED)], FAILS),
        ([finding(HOLDS), finding(UNMEASURED)], UNMEASURED),
        ([finding(HOLDS), finding(FAILS, beside=True)], HOLDS),
        ([finding(FAILS, beside=True)], FAILS),
    ],
)
def test_a_claim_of_several_scores(findings: list[Finding], outcome: str) -> None:
    assert together(findings) == outcome


def test_slopes_are_least_squares() -> None:
    points = {0.0: Values({1: 9.0, 2: 3.0}, 1.0), 0.25: Values({1: 5.0, 2: 3.5}, 1.0), 1.0: Values({1: 2.0}, 1.0)}
    found = slope(points)
    assert found.by_seed == pytest.approx({1: np.polyfit([0, 0.25, 1], [9, 5, 2], 1)[0]})  # seed 2 lacks a point
    x = np.array([0, 0.25, 1]) - 0.41666666
    assert found.variance == pytest.approx(1 / (x**2).sum())
    assert not slope({0.0: Values({1: 9.0})})
    assert not slope({0.0: Values({1: 9.0}), 1.0: Values({2: 9.0})})


def test_pearson_of_the_papers_table() -> None:
    """The rounded numbers of Table 5 give its correlations, as far as they can."""
    drop = (9.16, 4.50, 2.80, 2.60)
    assert pearson((580.6, 496.8, 388.5, 284.6), drop) == pytest.approx(0.881, abs=5e-3)
    assert pearson((0.371, 0.264, 0.163, 0.098), drop) == pytest.approx(0.938, abs=5e-3)
    assert pearson((0.198, 0.161, 0.125, 0.104), drop) == pytest.approx(0.939, abs=5e-3)
    assert pearson((0.066, 0.037, 0.015, 0.006), drop) == pytest.approx(0.971, abs=5e-3)
    assert math.isnan(pearson([1.0], [1.0]))
    assert math.isnan(pearson([1.0, 2.0], [3.0, 3.0]))
