from __future__ import annotations

import math

import numpy as np
import pytest

from tests.reports.made import arithmetic, interpolation, score
from vlmerge_cli.records import Record
from vlmerge_cli.reports.study_records import (
    MAA,
    MB,
    MSA,
    RETRIEVAL,
    VQA,
    ZERO_SHOT,
    Pick,
    Study,
    Values,
)  # fmt: skip


def test_fine_tuning_runs_of_a_seed_are_averaged_before_seeds_are_compared() -> None:
    study = Study([
        score(50, "vqa", finetune_seed=1), score(54, "vqa", finetune_seed=2), score(60, "vqa", seed=2),
    ])  # fmt: skip
    found = study.values(VQA, MSA)
    assert found.by_seed == {1: 52.0, 2: 60.0}
    assert found.mean == 56.0
    assert found.spread == pytest.approx(np.std([52, 60], ddof=1))
    assert found.variance == pytest.approx(56 * 44 / 1000)


def test_what_differs_in_one_thing_is_another_model() -> None:
    study = Study([
        score(40), score(30, steps=0), score(35, k_seed=0.5), score(20, arch="agnostic"), score(10, width=32),
        score(33, split="val"), score(25, merge=interpolation(0.5)), score(24, merge=interpolation(0.75)),
        score(9, merge=interpolation(0.5), order="after"), score(22, merge=arithmetic(0.5)),
    ])  # fmt: skip
    assert study.values(RETRIEVAL, MSA).by_seed == {1: 40}
    assert study.values(ZERO_SHOT, MSA).by_seed == {1: 30}
    assert study.values(RETRIEVAL, Pick(k_seed=0.5)).by_seed == {1: 35}
    assert study.values(RETRIEVAL, MAA).by_seed == {1: 20}
    assert study.values(RETRIEVAL, Pick(width=32)).by_seed == {1: 10}
    assert study.values(RETRIEVAL, MSA, "val").by_seed == {1: 33}
    assert study.values(RETRIEVAL, MB).by_seed == {1: 25}
    assert study.values(RETRIEVAL, MSA.merged(0.75)).by_seed == {1: 24}
    assert study.values(RETRIEVAL, MSA.merged(order="after")).by_seed == {1: 9}
    assert study.values(RETRIEVAL, MSA.merged(0.5, "arithmetic")).by_seed == {1: 22}
    assert study.drop(RETRIEVAL, MSA).by_seed == {1: 15}
    assert not study.drop(RETRIEVAL, Pick(k_seed=0.5))
    assert study.tried(RETRIEVAL, MSA, "interpolation") == [0.5, 0.75]


def test_merges_with_unusual_settings_are_not_the_papers() -> None:
    study = Study([
        score(1, merge=interpolation(0.5, **{"vl-ratio": 0.5})), score(2, merge=arithmetic(0.5, sequential=True)),
        score(3, merge=interpolation("auto")),  # type: ignore[arg-type]
        score(4, merge={"method": "another", "settings": {}}),
    ])  # fmt: skip
    assert not study.values(RETRIEVAL, MB)
    assert study.tried(RETRIEVAL, MSA, "arithmetic") == []


def test_another_length_of_fine_tuning_does_not_mix_in() -> None:
    rows = [score(50, "vqa", steps=300), score(60, "vqa", steps=600)]
    assert Study(rows).values(VQA, MSA).by_seed == {1: 60}  # the longest
    said = Record("study", {}, {"finetune_steps": {"vqa": 300}})
    assert Study([said, *rows]).values(VQA, MSA).by_seed == {1: 50}
    wrong = Record("study", {}, {"finetune_steps": {"vqa": 7}})
    assert Study([wrong, *rows]).values(VQA, MSA).by_seed == {1: 60}


def tuned(val: dict[float, float], test: dict[float, float], seed: int = 1) -> list[Record]:
    rows = [score(v, "vqa", 0.5, interpolation(a), seed, split="val") for a, v in val.items()]
    return rows + [score(v, "vqa", 0.5, interpolation(a), seed) for a, v in test.items()]


def test_settings_are_chosen_on_the_validation_split() -> None:
    study = Study(tuned({0.25: 10, 0.5: 30, 0.75: 20, 1.0: 99}, {0.25: 70, 0.5: 40, 0.75: 50}))
    best = study.best(VQA, Pick(k_seed=0.5), "interpolation")
    assert best is not None
    assert best.at == 0.5  # 1.0 has no test score, 0.25 is best on test only
    ours = study.ours(VQA)
    assert ours is not None
    assert study.values(VQA, ours).mean == 40
    few = study.best(VQA, Pick(k_seed=0.5), "interpolation", among=(0.25, 0.75))
    assert few is not None
    assert few.at == 0.75


def test_a_setting_is_not_chosen_for_the_seeds_it_was_tried_with() -> None:
    both = tuned({0.5: 30, 0.75: 29}, {0.5: 1, 0.75: 1})
    study = Study(both + tuned({0.5: 10}, {0.5: 1}, seed=2))  # a hard seed that only 0.5 has met
    best = study.best(VQA, Pick(k_seed=0.5), "interpolation")
    assert best is not None
    assert best.at == 0.5


def test_without_validation_ours_is_the_papers_alpha() -> None:
    for alphas, chosen in (((0.25, 0.5, 0.75), 0.75), ((0.25, 0.5), 0.5), ((0.25,), 0.25)):
        ours = Study(tuned({}, dict.fromkeys(alphas, 1))).ours(VQA)
        assert ours is not None
        assert ours.at == chosen
    assert Study([]).ours(VQA) is None


def test_differences_are_taken_within_seeds() -> None:
    gap = Values({1: 5.0, 2: 6.0, 3: 9.0}, 0.5).minus(Values({2: 1.0, 3: 2.0, 4: 8.0}, 0.25))
    assert gap.by_seed == {2: 5.0, 3: 7.0}
    assert gap.variance == 0.75
    assert Values({1: 5.0}).spread is None
    assert math.isnan(Values({1: 5.0}).variance)
