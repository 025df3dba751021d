"""evaluate: what a checkpoint records of its data and vocabulary is used, kept and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.model.conftest import build
from vlmerge_cli.cli import app
from vlmerge_cli.data import provenance
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.tokenizer import BUNDLED, load
from vlmerge_cli.model.config import preset
from vlmerge_cli.training.start import look
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.vlmodel import VLModel

pytestmark = pytest.mark.xdist_group("evaluate-command")

RUN = CliRunner()
SHAPES = {"train": 40, "val": 13, "test": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def work(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the captions and the vocabulary of a user's own: pieces in reverse."""
    monkeypatch.setenv("VLMERGE_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    words = BUNDLED.read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join(words[:5] + words[:4:-1]))
    shutil.copytree(folder(ShapesOptions(image_px=8, **SHAPES), "coco"), tmp_path / "own")
    return tmp_path


def saved(work: Path, data: str = "shapes", words: str = "bundled") -> Path:
    sizes = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20}
    model = build(preset("micro", architecture="specific", heads=("itc", "itm", "mlm"), **sizes))
    tokenizer = load(words, 20)
    run = {"shapes": SHAPES if data == "shapes" else {}}
    about = {**provenance.noted((data,), work / "x"), **vocabulary.noted(tokenizer, words), "run": run}
    model.save_pretrained(work / "x", about=about, tokenizer=tokenizer)
    return work / "x"


def evaluated(checkpoint: Path, *options: str) -> dict[str, Any]:
    result = RUN.invoke(app, ["evaluate", str(checkpoint), "--task", "retrieval", "--json", *options])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return {name: found[name] for name in ("scores", "data", "num_samples")}


@pytest.mark.parametrize(("data", "words"), [("shapes", "bundled"), ("own", "vocab.txt")])
def test_a_model_that_is_loaded_and_saved_stays_what_it_was(work: Path, data: str, words: str) -> None:
    x = saved(work, data, words)
    VLModel.from_pretrained(x).save_pretrained(work / "deep/er/y")
    found = evaluated(x)
    assert evaluated(work / "deep/er/y") == found
    assert found["num_samples"] == 65
    named = "shapes(image_px=8, train=40, val=13, test=8)" if data == "shapes" else f"{work}/own"
    assert found["data"] == [named]
    before, after = look(x).about, look(work / "deep/er/y").about
    assert {**before, "data_at": None, "config": None} == {**after, "data_at": None, "config": None}
    table = RUN.invoke(app, ["evaluate", str(x), "--task", "retrieval"])
    assert named in " ".join(table.stdout.split()), table.stdout


@pytest.mark.parametrize("target", ["copied/merged", "copied/merged.safetensors"])
def test_a_merge_is_scored_on_the_same_data_from_anywhere(
    work: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = saved(work, "own", "vocab.txt")
    (work / "copied").mkdir()
    arguments = ["merge", str(x), "-o", target, "--method", "interpolation"]
    assert RUN.invoke(app, arguments).exit_code == 0
    found = evaluated(work / target)
    (work / "vocab.txt").unlink()
    (work / "elsewhere/own").mkdir(parents=True)
    monkeypatch.chdir(work / "elsewhere")
    assert evaluated(work / target) == found
    assert evaluated(work / target, "--data", str(work / "own"))["scores"] == found["scores"]


def test_another_vocabulary_is_refused(work: Path) -> None:
    x = saved(work, "own", "vocab.txt")
    shutil.copy(BUNDLED, work / "vocab.txt")  # another one under the recorded name: that beside the weights counts
    found = evaluated(x)
    for command in (["evaluate", str(x), "--task", "retrieval"], ["finetune", str(x), "--task", "retrieval"]):
        result = RUN.invoke(app, [*command, *(["--tokenizer", "bundled"] if command[0] == "evaluate" else
                                              ["--set", "tokenizer=bundled", "--steps", "1"])])  # fmt: skip
        assert (result.exit_code, "not the vocabulary" in result.stderr) == (2, True), result.stderr
    (x / "vocab.txt").rename(work / "again.txt")
    assert evaluated(x, "--tokenizer", "again.txt") == found
    result = RUN.invoke(app, ["evaluate", str(x), "--task", "retrieval"])
    assert (result.exit_code, "is not at hand" in result.stderr) == (1, True), result.stderr


def test_what_has_to_be_guessed_is_said(work: Path) -> None:
    sizes = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20}
    model = build(preset("micro", architecture="specific", heads=("itc",), **sizes))
    model.save_pretrained("plain", about={"run": {"shapes": SHAPES}})
    result = RUN.invoke(app, ["evaluate", "plain", "--task", "retrieval", "--json"])
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "does not say its data: taken to be shapes" in said
    assert "does not say its vocabulary: taken to be bundled" in said


def test_names_of_a_head_that_is_changed_are_not_kept(work: Path) -> None:
    sizes = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20}
    model = build(preset("micro", architecture="specific", heads=("vqa", "itc"), **sizes))
    model.save_pretrained("x", about={"answers": ["a", "b", "c", "d", "e"], "recipe": {"method": "regmean"}})
    kept, changed = VLModel.from_pretrained("x").about, VLModel.from_pretrained("x", heads=("itc",)).about
    assert kept["answers"] == ["a", "b", "c", "d", "e"]
    assert changed == {"recipe": {"method": "regmean"}}


def test_a_head_is_scored_on_its_own_classes_alone(work: Path) -> None:
    data = folder(ShapesOptions(image_px=8, **SHAPES), "classes")
    names = sorted(path.name for path in (data / "train").iterdir())
    for classes, said in (
        (names, None),
        (names[::-1], f"the head knows {len(names)} classes ({', '.join(names[:-4:-1])}, ...)"),
        (["a", "b", "c"], f"the head knows 3 classes (a, b, c), the data have {len(names)}"),
    ):
        model = build(preset("micro", heads=("classification",), num_classes=len(classes), vocab_size=96))
        model.save_pretrained("head", about={"tokenizer": "bundled", "classes": classes})
        ask = ["evaluate", "head", "--task", "classification", "--data", str(data), "--json"]
        result = RUN.invoke(app, ask)
        assert result.exit_code == (0 if said is None else 1), result.stderr
        assert said is None or said in " ".join(result.stderr.split()), result.stderr
