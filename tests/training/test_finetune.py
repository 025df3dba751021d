"""Fine-tuning runs of a micro model: they learn, merge on the way in, resume, stop early, and tell what is broken."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.model.conftest import build
from tests.training.conftest import losses
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import PART_OF, ShapesOptions
from vlmerge_cli.errors import DataError, UsageError
from vlmerge_cli.model.config import preset
from vlmerge_cli.study.merged import Merging
from vlmerge_cli.tasks import TASKS
from vlmerge_cli.tasks.task import task as task_of
from vlmerge_cli.training import loop
from vlmerge_cli.training.finetune import Run, finetune
from vlmerge_cli.training.finetune_config import load
from vlmerge_cli.training.scoring import Question, score
from vlmerge_cli.training.start import look
from vlmerge_cli.weights.vlmodel import VLModel

pytestmark = pytest.mark.xdist_group("finetune")  # its fixtures are made once

MICRO = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20, "drop_path": 0.0, "dropout": 0.0}
SHORT = {"steps": 6, "batch_size": 8, "saving.log_every": 1, "saving.every": 3, "saving.validate_every": 3}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Task -> its data, in the benchmark's own format."""
    options = ShapesOptions(image_px=8, train=40, val=13, test=8)
    root = tmp_path_factory.mktemp("made")
    return lambda name: folder(options, PART_OF[task_of(name).kind], root)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specific model with the heads of pre-training."""
    path = tmp_path_factory.mktemp("start") / "ckpt"
    model = build(preset("micro", architecture="specific", heads=("itc", "itm", "mlm"), **MICRO))
    model.save_pretrained(path, about={"tokenizer": "bundled"})
    return path


@pytest.fixture
def tune(made: Callable[[str], Path], checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(
        name: str, task: str = "vqa", start: Path | None = None, resume: bool = False, merging: Merging | None = None,
        **changes: Any,
    ) -> Path:  # fmt: skip
        path = str(start or checkpoint)
        given = {**SHORT, "task": task, "checkpoint": path, "data": [str(made(task))], "num_answers": 30, **changes}
        config = load(look(path), None, given, [])
        return finetune(Run(config, tmp_path / name), resume, make_start=None if merging is None else merging.write)

    return run


@pytest.mark.parametrize("task", [name for name in TASKS if name != "flickr30k"])
def test_every_task_leaves_a_best_and_a_last_model_that_score(
    task: str, tune: Callable[..., Path], made: Callable[[str], Path]
) -> None:
    run = tune("run", task)
    found = losses(run, "validation")
    main = task_of(task).main
    best = score(str(run / "best"), Question(task, (str(made(task)),)))
    last = score(str(run), Question(task, (str(made(task)),)))
    assert best.scores.values[main] == max(row[main] for row in found)
    assert last.scores.values == found[-1]
    assert len(losses(run)) == 6
    about = look(run / "best").about
    assert (about["task"], about["tokenizer"]) == (task, "bundled")


def test_it_learns(tune: Callable[..., Path]) -> None:
    run = tune("run", "segmentation", steps=60, **{"saving.every": 60, "saving.validate_every": 60})
    rows = losses(run)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_merged_on_the_way_in_is_merged_before_bit_for_bit(
    kind: str, tune: Callable[..., Path], checkpoint: Path, tmp_path: Path
) -> None:
    merging = Merging(str(checkpoint), "interpolation", {"alpha": 0.75})
    first = tmp_path / ("merged.safetensors" if kind == "file" else "merged")
    merging.write(first)
    before = tune("before", start=first)
    on_the_way = tune("way", merging=merging, merge=merging.described())
    assert losses(before) == losses(on_the_way)  # exact
    a, b = load_file(before / "model.safetensors"), load_file(on_the_way / "model.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert look(on_the_way).config.architecture == "agnostic"
    assert losses(before)[0]["loss"] != losses(tune("unmerged"))[0]["loss"]


def test_a_new_head_learns_at_its_own_rate(tune: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[float, set[str]] = {}
    inner = loop.Trainer._train

    def watched(self: Any, batch: Any, step: int) -> Any:
        values = inner(self, batch, step)
        names = {id(p): name for name, p in self.module.named_parameters()}
        for group in self._adamw.param_groups:
            ratio = round(group["lr"] / values["lr"], 6)
            seen.setdefault(ratio, set()).update(names[id(p)] for p in group["params"])
        return values

    monkeypatch.setattr(loop.Trainer, "_train", watched)
    tune("run", steps=1, **{"optimizer.head_multiplier": 10.0, "optimizer.layer_decay": 0.5})
    assert {name.split(".")[1] for name in seen[10.0]} == {"vqa_classifier"}
    assert seen[0.5] == {name for name in seen[0.5] if ".blocks.3." in name} != set()
    assert "model.transformer.cls_token" in seen[0.5**5]
    assert "model.pooler.dense.weight" in seen[1.0]


def test_stopped_and_resumed_it_is_the_run_that_was_not(
    tune: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune("whole", **{"drop": 0.2})
    inner = loop.Trainer._train

    def stopping(self: Any, batch: Any, step: int) -> Any:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return inner(self, batch, step)

    monkeypatch.setattr(loop.Trainer, "_train", stopping)
    with pytest.raises(KeyboardInterrupt):
        tune("stopped", **{"drop": 0.2})
    monkeypatch.undo()
    again = tune("stopped", resume=True, **{"drop": 0.2})
    assert losses(whole) == losses(again)
    assert losses(whole, "validation") == losses(again, "validation")
    a, b = load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_it_ends_when_validation_stays_where_it_is(tune: Callable[..., Path]) -> None:
    changes = {"optimizer.lr": 1e-12, "patience": 2, "steps": 40, "saving.validate_every": 2, "saving.every": 40}
    run = tune("run", "segmentation", **changes)
    assert [row["miou"] for row in losses(run, "validation")] == [losses(run, "validation")[0]["miou"]] * 3
    assert len(losses(run)) == 6  # the first validation is the best, then two that are not
    assert tune("run", "segmentation", resume=True, **changes) == run
    assert len(losses(run)) == 6


def test_another_image_size_and_start_values(tune: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = tune("larger", steps=1, image_px=16)
    assert look(run).config.image_px == 16
    assert "resized: relative_position_bias_table" in capsys.readouterr().err
    tune("random", steps=1, random=True)
    assert losses(run.parent / "random")[0]["loss"] != losses(run)[0]["loss"]
    assert "tensors loaded" not in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"accumulate": 2}, {"precision": "float64"}])
def test_other_ways_to_the_same_loss(changes: dict[str, Any], tune: Callable[..., Path]) -> None:
    exact, found = losses(tune("exact", steps=2)), losses(tune("other", steps=2, **changes))
    rel = 3e-2 if changes.get("precision") == "bfloat16" else 1e-5
    assert found[0]["loss"] == pytest.approx(exact[0]["loss"], rel=rel)


def test_an_agnostic_checkpoint_and_a_fine_tuned_one_are_starts_too(tune: Callable[..., Path], tmp_path: Path) -> None:
    agnostic = tmp_path / "agnostic"
    model = build(preset("micro", architecture="agnostic", **MICRO))
    model.save_pretrained(agnostic)
    run = tune("one", start=agnostic, steps=2)
    again = tune("two", start=run, steps=1)
    assert look(again).config.architecture == "agnostic"
    head = "vqa_classifier.0.weight"
    kept = VLModel.from_pretrained(run).state_dict()[head]
    assert (kept - load_file(again / "model.safetensors")[head]).abs().max() < 0.1  # not drawn anew


def test_broken_images_stop_it_before_it_starts_unless_they_may_be_skipped(
    tune: Callable[..., Path], made: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made("vqa"), broken)
    images = sorted((broken / "train2014").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"× missing image"):
        tune("stops", data=[str(broken)])
    with pytest.raises(DataError, match=r"× (truncated|broken)"):
        tune("looks", data=[str(broken)], check="whole", max_bad_ratio=0.03)
    assert not (tmp_path / "stops" / "metrics.jsonl").exists()
    run = tune("skips", data=[str(broken)], max_bad_ratio=1.0)
    assert len(losses(run)) == 6


def test_a_folder_with_another_run_is_left_alone(tune: Callable[..., Path]) -> None:
    tune("run", steps=1)
    with pytest.raises(UsageError, match="is not empty"):
        tune("run", steps=1)
    with pytest.raises(UsageError, match="other settings"):
        tune("run", steps=2, resume=True)


def test_settings_are_kept_with_the_weights(tune: Callable[..., Path], made: Callable[[str], Path]) -> None:
    run = tune("run", steps=1)
    about = look(run).about
    assert about["run"]["optimizer"]["head_multiplier"] == 3.0
    notes = json.loads(next(made("vqa").glob("*train2014_annotations.json")).read_text())["annotations"]
    assert len(about["answers"]) == look(run).config.num_answers <= 30
    assert set(about["answers"]) & {note["multiple_choice_answer"] for note in notes}


def test_a_head_is_scored_on_the_view_that_it_was_trained_for(
    tune: Callable[..., Path], made: Callable[[str], Path]
) -> None:
    run = tune("run", "classification", view="centre", augment="beit")
    asked = Question("classification", (str(made("classification")),))
    assert look(run).view == "centre"
    assert score(str(run), asked).scores.values == losses(run, "validation")[-1]
    whole = score(str(run), replace(asked, view="whole")).scores
    assert whole.predictions != score(str(run), asked).scores.predictions
