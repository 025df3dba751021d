from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reports import fake
from tests.reports.made import arithmetic, distance, interpolation, regmean, score
from vlmerge_cli.records import Record
from vlmerge_cli.reports.document import FAILS, HOLDS, UNDECIDED, UNMEASURED, Verdict
from vlmerge_cli.reports.study_records import Study
from vlmerge_cli.reports.verdicts.claims import CLAIMS, verdicts

HALF = interpolation(0.5)
JITTER = {1: 0.0, 2: 0.3, 3: -0.3}  # of each seed, so that paired differences are small and not 0


def verdict(name: str, records: list[Record]) -> Verdict:
    return next(found for found in verdicts(Study(records)) if found.name == name)


def seeds(make: Callable[[int, float], list[Record]]) -> list[Record]:
    return [record for seed, jitter in JITTER.items() for record in make(seed, jitter)]


def pair(before: float, after: float, k_seed: float = 0.0, **more: object) -> list[Record]:
    """An unmerged score and a merged one; the merged one differs a little more from seed to seed."""
    return seeds(lambda seed, jitter: [
        score(before + jitter, k_seed=k_seed, seed=seed, **more),  # type: ignore[arg-type]
        score(after + 1.2 * jitter, k_seed=k_seed, seed=seed, merge=HALF, **more),  # type: ignore[arg-type]
    ])  # fmt: skip


def ladder(values: dict[float, float], merge: Callable[[float], dict[str, object]], **more: object) -> list[Record]:
    """Scores of merges with half of the steps as seed phase, on both splits."""
    return seeds(lambda seed, jitter: [
        score(value + jitter * (1 + 0.1 * at), k_seed=0.5, seed=seed, merge=merge(at), split=split, **more)  # type: ignore[arg-type]
        for at, value in values.items() for split in ("val", "test")
    ])  # fmt: skip


def drops(*lost: float) -> list[Record]:
    """Models whose merge loses so many points, by the length of the seed phase."""
    return [row for k, points in zip(fake.PHASES, lost, strict=False) for row in pair(40, 40 - points, k)]


def merged(*values: float) -> list[Record]:
    return [row for k, value in zip(fake.PHASES, values, strict=False) for row in pair(50, value, k)]


def unmerged(*values: float) -> list[Record]:
    return [row for k, value in zip(fake.PHASES, values, strict=False) for row in pair(value, 10, k)]


def archs(specific: float, others: float) -> list[Record]:
    rows = seeds(lambda seed, jitter: [score(others + 1.2 * jitter, seed=seed, arch="agnostic")])
    for arch in ("specific", "custom-attn", "custom-ffn", "custom-ln"):
        rows += pair(specific if arch == "specific" else others, 20, 0.5, arch=arch)
    return rows


def vision(ours: float, others: float) -> list[Record]:
    return [
        row
        for task in ("classification", "segmentation")
        for row in [
            *ladder({0.75: ours}, interpolation, task=task),
            *seeds(lambda seed, jitter, task=task: [
                score(others + 1.2 * jitter, task, seed=seed),
                score(others + 1.1 * jitter, task, seed=seed, arch="agnostic"),
            ]),
        ]
    ]  # fmt: skip


def baseline(ours: float, mb: float) -> list[Record]:
    return [
        row
        for task in ("nlvr2", "retrieval")
        for row in [*ladder({0.75: ours}, interpolation, task=task),
                    *seeds(lambda seed, jitter, task=task: [score(mb + 1.2 * jitter, task, seed=seed, merge=HALF)])]
    ]  # fmt: skip


def order(before: float, after: float) -> list[Record]:
    return seeds(lambda seed, jitter: [
        row for k in (0.0, 0.5) for row in (
            score(before + jitter, k_seed=k, seed=seed, merge=HALF),
            score(after + 1.2 * jitter, k_seed=k, seed=seed, merge=HALF, order="after"),
        )
    ])  # fmt: skip


def widths(wide: float, narrow: float) -> list[Record]:
    return pair(40, 40 - wide) + pair(35, 35 - narrow, width=32)


def apart(**metrics: tuple[float, ...]) -> list[Record]:
    """Drops of 9, 5, 3 and 1 points in three seeds, with these distances."""
    rows = drops(9, 5, 3, 1)
    for seed in JITTER:
        for place, k in enumerate(fake.PHASES):
            wobble = 1 + 0.01 * seed * place
            own = {name: values[place] * wobble for name, values in metrics.items()}
            rows.append(distance(own.pop("tssd"), k, seed, **own))
    return rows


NEAR, FAR, FLAT = (9.0, 5.0, 3.0, 1.0), (1.0, 3.0, 5.0, 9.0), (5.0, 1.0, 6.0, 2.0)
ALPHA = dict(zip(fake.GRID, (20.0, 25.0, 30.0, 31.0, 28.0), strict=True))
CASES: dict[str, tuple[list[Record], list[Record]]] = {  # claim -> records on which it holds, and on which it does not
    "much-is-lost": (pair(40, 30), pair(40, 39.5)),
    "longer-loses-less": (drops(9, 5, 3, 2), drops(2, 3, 5, 9)),
    "best-at-half": (merged(20, 25, 30, 27), merged(20, 25, 30, 33)),
    "unmerged-gets-worse": (unmerged(40, 39, 38, 37), unmerged(37, 38, 39, 40)),
    "vision-beats-language": (ladder(ALPHA, interpolation), ladder({0.0: 30, 1.0: 20}, interpolation)),
    "interior-alpha": (ladder(ALPHA, interpolation), ladder({**ALPHA, 1.0: 40}, interpolation)),
    "smaller-lambda": (
        ladder({0.0: 30, 0.5: 29, 1.0: 20}, arithmetic), ladder({0.0: 20, 0.5: 29, 1.0: 30}, arithmetic),
    ),
    "regmean-robust": (
        ladder({0.0: 30, 0.5: 30.3, 1.0: 30.1}, regmean), ladder({0.0: 30, 0.5: 36, 1.0: 30}, regmean),
    ),
    "competitive": (
        ladder({0.75: 30}, interpolation) + ladder({0.9: 30.5}, regmean),
        ladder({0.75: 30}, interpolation) + ladder({0.9: 35}, regmean),
    ),
    "beats-arithmetic": (
        ladder({0.75: 30}, interpolation) + ladder({0.5: 29}, arithmetic),
        ladder({0.75: 30}, interpolation) + ladder({0.5: 32}, arithmetic),
    ),
    "custom-norms-keep": (pair(40, 39.5, 0.5, arch="custom-ln"), pair(40, 35, 0.5, arch="custom-ln")),
    "custom-norms-lower": (archs(40, 38), archs(38, 40)),
    "specific-best": (archs(40, 38), archs(38, 40)),
    "on-a-par": (
        ladder({0.75: 30}, interpolation) + seeds(lambda s, j: [score(31 + 1.2 * j, seed=s, arch="agnostic")]),
        ladder({0.75: 30}, interpolation) + seeds(lambda s, j: [score(36 + 1.2 * j, seed=s, arch="agnostic")]),
    ),
    "beats-baseline": (baseline(35, 30), baseline(28, 30)),
    "vision-kept": (vision(60, 60.5), vision(60, 66)),
    "wider-loses-less": (widths(5, 9), widths(9, 5)),
    "distance-tells": (
        apart(l2=NEAR, cosine=NEAR, ssd=NEAR, tssd=NEAR), apart(l2=NEAR, cosine=NEAR, ssd=NEAR, tssd=FAR),
    ),
    "tssd-best": (
        apart(l2=FLAT, cosine=FLAT, ssd=FLAT, tssd=NEAR), apart(l2=NEAR, cosine=FLAT, ssd=FLAT, tssd=FLAT),
    ),
    "l2-least": (
        apart(l2=FLAT, cosine=NEAR, ssd=NEAR, tssd=NEAR), apart(l2=NEAR, cosine=FLAT, ssd=FLAT, tssd=FLAT),
    ),
    "merge-first": (order(35, 20), order(35, 36)),
}  # fmt: skip


def test_every_claim_has_cases() -> None:
    assert set(CASES) == set(CLAIMS)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_holds_and_does_not_hold(name: str) -> None:
    good, bad = CASES[name]
    assert verdict(name, good).outcome == HOLDS, verdict(name, good)
    assert verdict(name, bad).outcome == FAILS, verdict(name, bad)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_whose_seeds_disagree_is_undecided(name: str) -> None:
    """Seed 1 from the records on which it holds, seed 2 from those on which it does not."""
    good, bad = ([r for r in rows if r.at["seed"] == seed] for seed, rows in enumerate(CASES[name], 1))
    assert verdict(name, good + bad).outcome == UNDECIDED


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_without_records_is_not_measured(name: str) -> None:
    found = verdict(name, [])
    assert (found.outcome, found.findings) == (UNMEASURED, ())


def test_numbers_of_a_finding() -> None:
    rows = [score(40, seed=1), score(31, seed=1, merge=HALF), score(42, seed=2), score(31, seed=2, merge=HALF)]
    rows.append(score(99, seed=3))  # was not merged
    (finding,) = verdict("much-is-lost", rows).findings
    assert finding.numbers == (
        "unmerged 41.00 ± 1.41, merged 31.00 ± 0.00: +10.00 ± 2.00, must be above +2 (2 seeds)"
    )  # differences 9 and 11: standard deviation √2, standard error 1


def test_a_part_without_records_is_named() -> None:
    found = verdict("specific-best", archs(40, 38)[:-12])
    assert found.outcome == UNMEASURED
    assert [f.numbers for f in found.findings if f.outcome == UNMEASURED] == ["no record of custom FFN, custom norms"]
    only_retrieval = [row for row in baseline(35, 30) if row.at["task"] == "retrieval"]
    found = verdict("beats-baseline", only_retrieval)
    assert found.outcome == UNMEASURED
    assert [f.score for f in found.findings if f.outcome == UNMEASURED] == ["NLVR²"]


def test_zero_shot_scores_count_only_alone() -> None:
    """Fine-tuned it holds; zero-shot, which the paper does not have, it does not."""
    zero = pair(40, 39.5, steps=0)
    assert verdict("much-is-lost", zero).outcome == FAILS
    both = verdict("much-is-lost", zero + pair(40, 30))
    assert both.outcome == HOLDS
    assert [finding.outcome for finding in both.findings] == [HOLDS, FAILS]


def test_all_claims_of_a_whole_study_are_measured() -> None:
    assert UNMEASURED not in {found.outcome for found in verdicts(Study(fake.study()))}
