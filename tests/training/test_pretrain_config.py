from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import PRESETS
from vlmerge_cli.training.pretrain_config import PretrainConfig, load, validated


def test_defaults_of_base_are_the_papers() -> None:
    found = load(None, {"model": "base"}, [])
    assert (found.steps, found.seed_steps, found.batch_size) == (200_000, 100_000, 1024)
    assert found.optimizer.lr == 2e-4
    assert found.optimizer.warmup * found.steps == 2500
    assert found.objectives.weights() == {"itc": 1.0, "itm": 1.0, "mlm": 0.25}
    assert (found.objectives.mask_ratio, found.augment, found.tokenizer) == (0.15, "published", "bert-base-uncased")


def test_every_preset_gives_a_run() -> None:
    for name in PRESETS:
        assert load(None, {"model": name}, []).model_of("agnostic", 100).architecture == "agnostic"


def test_later_wins_file_flag_set(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: small\nsteps: 50\nseed_steps: 10\noptimizer: {lr: 0.5, clip: 1.0}\n")
    found = load(file, {"steps": 60, "seed_steps": None}, ["optimizer.lr=0.25", "objectives.mlm=0"])
    assert (found.steps, found.seed_steps) == (60, 10)
    assert (found.optimizer.lr, found.optimizer.clip, found.optimizer.warmup) == (0.25, 1.0, 0.05)
    assert found.objectives.weights() == {"itc": 1.0, "itm": 1.0}


def test_a_stored_configuration_comes_back_equal(tmp_path: Path) -> None:
    found = load(None, {"model": "small", "data": ["a=/x:0.5", "b=/y:0.5"]}, ["changes.width=32"])
    (tmp_path / "run.yaml").write_text(found.to_yaml())
    assert load(tmp_path / "run.yaml", {}, []) == found


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["stesp=3"], "did you mean 'steps'?"),
        (["optimizer.lrr=3"], "did you mean 'lr'?"),
        (["model=smal"], "did you mean 'small'?"),
        (["arch=custom-fnn"], "did you mean 'custom-ffn'?"),
        (["steps=many"], "steps: "),
        (["steps=3", "seed_steps=4"], "seed_steps 4 exceed steps 3"),
        (["accumulate=3"], "batch_size 64 does not split into 3 parts"),
        (["objectives.itc=0", "objectives.itm=0", "objectives.mlm=0"], "every objective has weight 0"),
        (["objectives.hard_from=0.9", "objectives.hard_full=0.1"], "hard_from exceeds hard_full"),
        (["optimizer.lr=-1"], "greater than 0"),
        (["nothing"], "--set nothing"),
        (["shapes.trian=8"], "did you mean 'train'?"),
    ],
)
def test_what_is_wrong_is_named(sets: list[str], words: str) -> None:
    with pytest.raises(UsageError) as error:
        load(None, {}, sets)
    assert words in str(error.value)


def test_hard_negatives_bring_the_features_they_are_drawn_by() -> None:
    only_itm = {"itc": 0.0, "mlm": 0.0}
    assert validated(PretrainConfig, {"objectives": only_itm}).model_of("agnostic", 64).heads == ("itc", "itm")
    never = {**only_itm, "hard_from": 1.0, "hard_full": 1.0}
    assert validated(PretrainConfig, {"objectives": never}).model_of("agnostic", 64).heads == ("itm",)


def test_steps_say_the_same_however_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("steps: 20\n")
    flags, sets, file = load(None, {"steps": 20}, []), load(None, {}, ["steps=20"]), load(tmp_path / "run.yaml", {}, [])
    assert flags == sets == file
    assert (flags.steps, flags.seed_steps) == (20, 10)
    assert load(None, {"seed_steps": 3}, ["steps=20"]).seed_steps == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed_from": "x", "seed_steps": 0}, "seed_from has no effect without a seed phase"),
        ({"seed_from": "x", "init": "y"}, "init has no effect beside seed_from"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(None, given, [])
