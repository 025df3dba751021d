"""finetune, evaluate and sweep from the command line, on a micro model and the built-in data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.model.conftest import build
from vlmerge_cli.cli import app
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.model.config import preset
from vlmerge_cli.training.start import look

pytestmark = pytest.mark.xdist_group("finetune-command")  # its fixtures are made once

RUN = CliRunner()
SHAPES = {"train": 40, "val": 13, "test": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ckpt(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMERGE_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    sizes = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20}
    model = build(preset("micro", architecture="specific", heads=("itc", "itm", "mlm"), **sizes))
    model.save_pretrained(tmp_path / "ckpt", about={"tokenizer": "bundled", "run": {"shapes": SHAPES}})
    assert ShapesOptions(image_px=8, **SHAPES).train == 40
    return tmp_path / "ckpt"


def test_fine_tune_then_evaluate_with_predictions(ckpt: Path) -> None:
    result = RUN.invoke(app, ["finetune", str(ckpt), "--task", "vqa", "--steps", "3", "--batch-size", "8", "--json",
                              "--merge", "interpolation", "--alpha", "0.75", "--answers", "12"])  # fmt: skip
    assert result.exit_code == 0, result.stderr
    paths = json.loads(result.stdout)
    assert set(load_file(paths["last"])) == set(load_file(paths["best"]))
    settings = look("runs/vqa").about["run"]["merge"]
    assert (settings["method"], settings["settings"]["alpha"]) == ("interpolation", 0.75)
    result = RUN.invoke(app, ["evaluate", "runs/vqa/best", "--task", "vqa", "--predictions", "said.json", "--json"])
    found = json.loads(result.stdout)
    assert found["num_samples"] == 52
    assert sum(row["num_questions"] for row in found["groups"]["answer_type"].values()) == 52
    rows = json.loads(Path("said.json").read_text())
    assert len(rows) == 52
    assert all(set(row) == {"question_id", "answer"} and isinstance(row["question_id"], int) for row in rows)
    table = RUN.invoke(app, ["evaluate", "runs/vqa/best", "--task", "vqa", "--split", "test"]).stdout
    assert "question type" in table
    assert "samples per second" in table


def test_show_config_trains_nothing(ckpt: Path) -> None:
    result = RUN.invoke(app, ["finetune", str(ckpt), "--task", "retrieval", "--show-config", "--lr", "0.5"])
    assert result.exit_code == 0
    assert "lr: 0.5" in result.stdout
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["evaluate", "ckpt", "--task", "vqa"], 2, "vlmerge finetune CKPT --task vqa"),
        (["evaluate", "ckpt", "--task", "vqq"], 2, "did you mean 'vqa'?"),
        (["evaluate", "ckpt", "--task", "retrieval", "--predictions", "x"], 2, "leave --predictions out"),
        (["evaluate", "ckpt", "--task", "retrieval", "--precision", "bfloat"], 2, "did you mean 'bfloat16'?"),
        (["evaluate", "ckpt", "--task", "retrieval", "--data", "nowhere"], 1, "no such file or folder"),
        (["finetune", "ckpt"], 2, "no task"),
        (["finetune", "ckpt", "--task", "vqa", "--alpha", "0.5"], 2, "options of a merge without --merge"),
        (["finetune", "ckpt", "--task", "vqa", "--merge", "arithmetic"], 1, "--base CKPT"),
        (["finetune", "ckpt", "--task", "vqa", "--set", "stesp=1"], 2, "did you mean 'steps'?"),
        (["sweep", "ckpt", "--alpha", "1:0:0.1"], 2, "--alpha 1:0:0.1 is no range"),
        (["sweep", "ckpt", "--alpha", "0:2:0.5"], 2, "expected a number from 0 to 1"),
        (["sweep", "ckpt", "--evaluate", "vqa"], 2, "vlmerge finetune CKPT --task vqa"),
    ],
)
def test_errors_are_one_line_and_a_code(ckpt: Path, arguments: list[str], code: int, words: str) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert not Path("runs/vqa/metrics.jsonl").exists()


def test_a_sweep_scores_and_writes_the_best(ckpt: Path) -> None:
    command = ["sweep", str(ckpt), "--alpha", "0:1:0.5", "--evaluate", "retrieval", "--json", "--write-best", "best"]
    result = RUN.invoke(app, command)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    alphas = [point["merge"] and point["merge"]["settings"]["alpha"] for point in found["points"]]
    assert alphas == [None, 0.0, 0.5, 1.0]
    assert found["points"][0]["data"] == ["shapes(image_px=8, train=40, val=13, test=8)"]
    top = max(point["scores"]["mean_recall"] for point in found["points"][1:])
    scored = RUN.invoke(app, ["evaluate", "best", "--task", "retrieval", "--json"])
    assert json.loads(scored.stdout)["scores"]["mean_recall"] == top
    assert look("best").config.architecture == "agnostic"
    assert "best mean recall: interpolation" in RUN.invoke(app, command[:6]).stdout


def test_a_sweep_after_fine_tuning(ckpt: Path) -> None:
    command = ["sweep", str(ckpt), "--alpha", "0.5", "--evaluate", "segmentation", "--finetune", "2", "--json"]
    result = RUN.invoke(app, [*command, "--set", "batch_size=8", "--report", "page"])
    assert result.exit_code == 0, result.stderr
    assert "segmentation: interpolation, after 2 steps" in Path("page/report.md").read_text().lower()
    assert [set(point["scores"]) for point in json.loads(result.stdout)["points"]] == [{"miou", "pixel_accuracy"}] * 2
    assert sorted(path.name for path in Path("runs/sweep").iterdir()) == ["sweep.jsonl"]
