from __future__ import annotations

from pathlib import Path

import pytest

from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import preset
from vlmerge_cli.tasks import TASKS
from vlmerge_cli.training.finetune_config import FinetuneConfig, load
from vlmerge_cli.training.start import Start

BASE = Start("base", preset("base"), {}, Path("base"))
SMALL = Start("small", preset("small"), {"tokenizer": "bundled", "run": {"shapes": {"train": 64}}}, Path("small"))


def of(start: Start, sets: list[str] | None = None, **given: object) -> FinetuneConfig:
    return load(start, None, {"task": "vqa", "checkpoint": start.path, **given}, sets or [])


@pytest.mark.parametrize(
    ("task", "image_px", "lr", "batch_size", "epochs"),
    [("vqa", 480, 3e-5, 128, 10), ("retrieval", 384, 6.25e-6, 640, 20), ("nlvr2", 384, 5e-5, 128, 10),
     ("flickr30k", 384, 6.25e-7, 128, 40), ("classification", 224, 4e-3, 1024, 100)],
)  # fmt: skip
def test_defaults_of_base_are_the_published_ones(
    task: str, image_px: int, lr: float, batch_size: int, epochs: int
) -> None:
    found = of(BASE, task=task, data=["/data"])
    assert (found.image_px, found.optimizer.lr, found.batch_size, found.epochs) == (image_px, lr, batch_size, epochs)
    assert found.tokenizer == "bert-base-uncased"
    assert found.optimizer.head_multiplier == (10 if task == "vqa" else 1)


def test_every_task_has_settings_for_both_sizes() -> None:
    for task in TASKS:
        published, built_in = of(BASE, task=task, data=["/data"]), of(SMALL, task=task)
        assert published.image_px > built_in.image_px == 32
        assert built_in.shapes == {"train": 64}  # the data set the checkpoint knows
        assert built_in.tokenizer == "bundled"


def test_steps_replace_epochs_and_back() -> None:
    assert of(BASE, data=["/data"], steps=7).epochs is None
    assert of(SMALL, epochs=2.0).steps is None


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["task=vqq"], "did you mean 'vqa'?"),
        (["task=itm"], "itm is evaluated, not trained"),
        (["optimizer.layer_decy=1"], "did you mean 'layer_decay'?"),
        (["steps=3", "epochs=2"], "either steps or epochs"),
        (["accumulate=3"], "does not split into 3 parts"),
        (["drop=1"], "drop: "),
    ],
)
def test_what_is_wrong_is_named(sets: list[str], words: str) -> None:
    with pytest.raises(UsageError) as error:
        of(SMALL, sets)
    assert words in str(error.value)


def test_no_task_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no task"):
        load(SMALL, None, {"checkpoint": "x"}, [])


def test_a_stored_configuration_comes_back_equal(tmp_path: Path) -> None:
    found = of(BASE, ["optimizer.betas=[0.8, 0.9]"], data=["/data"], merge={"method": "interpolation"})
    (tmp_path / "run.yaml").write_text(found.to_yaml())
    assert load(BASE, tmp_path / "run.yaml", {}, []) == found
