"""``vlmerge grams``, ``grams add``, ``grams show``, and `merge --method regmean` on a trained checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.cli import app
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel

pytestmark = pytest.mark.xdist_group("grams-command")  # its fixtures are made once


def invoke(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small built-in data set in its usual format."""
    from vlmerge_cli.data.shapes.cached import folder

    return folder(ShapesOptions(train=24, val=8, test=8), "coco", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return make_trained(tmp_path / "trained", {})


def make_trained(path: Path, about: dict[str, Any], heads: tuple[str, ...] = ()) -> Path:
    torch.manual_seed(0)
    config = preset("small", architecture="specific", vocab_size=96, num_layers=2, fusion_layer=1, heads=heads)
    model = VLModel(config)
    with torch.no_grad():  # norms as after training, so that no input is degenerate
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path, about=about, sync=False)
    return path


def test_collect_show_add_and_merge(trained: Path, shapes: Path, tmp_path: Path) -> None:
    done = invoke("grams", trained, "--data", shapes, "--examples", "30", "--batch-size", "8", "--json")
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert about["output"] == str(tmp_path / "trained.grams.safetensors")
    assert about["num_examples"] == 30
    assert about["passes"] == ["image", "text", "itc", "joint"]
    tokens = about["tokens"]
    assert len(tokens) == 4 * 5  # linear slots, and v, l in two layers with vl in the second
    num_image = 30 * 17
    assert tokens["transformer.blocks.0.mlp.v.fc1.weight"] == num_image
    num_text = tokens["transformer.blocks.0.mlp.l.fc1.weight"]
    assert 30 * 4 < num_text < 30 * preset("small").max_text_tokens  # no padding
    assert tokens["transformer.blocks.1.mlp.vl.fc1.weight"] == 2 * (num_image + num_text)
    with open_checkpoint(trained) as weights:
        assert about["checkpoint"] == weights.fingerprint()

    shown = invoke("grams", "show", tmp_path / "trained.grams.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "transformer.blocks.1.mlp.vl.fc2.weight" in shown.stdout
    document = json.loads(invoke("grams", "show", tmp_path / "trained.grams.safetensors", "--json").stdout)
    assert {row["key"]: row["num_tokens"] for row in document["grams"]} == tokens

    again = invoke("grams", trained, "--data", shapes, "--examples", "30", "-o", tmp_path / "b.grams.safetensors")
    assert again.exit_code == 0, again.output
    summed = invoke(
        "grams", "add", tmp_path / "trained.grams.safetensors", tmp_path / "b.grams.safetensors",
        "-o", tmp_path / "c.grams.safetensors", "--json",
    )  # fmt: skip
    assert json.loads(summed.stdout)["tokens"] == {key: 2 * count for key, count in tokens.items()}

    merged = invoke("merge", trained, "--method", "regmean", "--gamma", "0.5")
    assert merged.exit_code == 0, merged.output
    assert VLModel.from_pretrained(tmp_path / "trained.merged").config.architecture == "agnostic"


def test_examples_and_batches(trained: Path, shapes: Path, tmp_path: Path) -> None:
    """All examples (--examples 0) are each seen once, whatever the size of a batch."""
    counts = []
    for size in ("7", "50"):
        done = invoke(
            "grams", trained, "--data", shapes, "--examples", "0", "--batch-size", size, "--json", "--force",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        counts.append(json.loads(done.stdout)["tokens"])
    assert counts[0] == counts[1]
    assert counts[0]["transformer.blocks.0.mlp.v.fc1.weight"] == 24 * 5 * 17


def test_padding_counts_when_asked(trained: Path, shapes: Path) -> None:
    done = invoke("grams", trained, "--data", shapes, "--examples", "10", "--include-padding", "--json")
    about = json.loads(done.stdout)
    assert about["padding"] is True
    assert about["tokens"]["transformer.blocks.0.mlp.l.fc1.weight"] == 10 * preset("small").max_text_tokens


def test_passes_that_leave_an_expert_out(trained: Path, shapes: Path, tmp_path: Path) -> None:
    done = invoke("grams", trained, "--data", shapes, "--examples", "10", "--passes", "image,text")
    assert done.exit_code == 0, done.output
    assert "warning: no Gram for vl in layers 1: no token reaches it in the passes image, text" in done.stderr
    refused = invoke("merge", trained, "--method", "regmean")
    assert refused.exit_code == 1
    assert "no Gram of expert vl" in refused.stderr
    merged = invoke("merge", trained, "--method", "regmean", "--experts-for", "retrieval")
    assert merged.exit_code == 0, merged.output


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_precision(trained: Path, shapes: Path, tmp_path: Path, precision: str) -> None:
    done = invoke("grams", trained, "--data", shapes, "--examples", "10", "--precision", precision)
    assert done.exit_code == 0, done.output


def test_rounds_that_fit_in_memory(trained: Path, shapes: Path, tmp_path: Path) -> None:
    words = ["grams", trained, "--data", shapes, "--examples", "20", "--threads", "1"]
    assert invoke(*words).exit_code == 0
    limited = invoke(*words, "--max-memory", "2.2MB", "-o", tmp_path / "limited.safetensors")
    assert limited.exit_code == 0, limited.output
    assert "rounds over the data, for layers" in limited.stderr
    assert (tmp_path / "limited.safetensors").read_bytes() == (tmp_path / "trained.grams.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data", "{shapes}", "--passes", "image,tex"], 2, "no pass 'tex'"),
        (["--data", "{shapes}", "--precision", "float31"], 2, "did you mean 'float32'?"),
        (["--data", "{shapes}", "--max-memory", "10kB"], 2, "--max-memory 10 kB is too small"),
        (["--data", "{shapes}", "--max-memory", "lots"], 2, "--max-memory lots"),
        (["--data", "{shapes}", "--tokenizer", "{other}"], 1, "the vocabulary"),
        (["--data", "/nowhere"], 1, "nowhere"),
        ([], 2, "does not say what it was trained on"),
    ],
)
def test_what_cannot_be_done(
    trained: Path, shapes: Path, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    other = tmp_path / "vocab.txt"
    other.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(200))]))
    done = invoke("grams", trained, *(word.format(shapes=shapes, other=other) for word in words))
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "trained.grams.safetensors").exists()


def test_an_output_that_exists(trained: Path, shapes: Path, tmp_path: Path) -> None:
    words = ["grams", trained, "--data", shapes, "--examples", "4"]
    assert invoke(*words).exit_code == 0
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    assert invoke(*words, "--force").exit_code == 0


def test_regmean_collects_what_it_lacks(shapes: Path, tmp_path: Path) -> None:
    """A checkpoint that records its data needs nothing but `merge CKPT --method regmean`."""
    trained = make_trained(tmp_path / "trained", {"data": [str(shapes)]})
    dry = invoke("merge", trained, "--method", "regmean", "--dry-run")
    assert dry.exit_code == 0
    assert f"Gram matrices are collected first, on {shapes}" in dry.stdout
    assert not (tmp_path / "trained.grams.safetensors").exists()
    done = invoke("merge", trained, "--method", "regmean", "--gamma", "0.5")
    assert done.exit_code == 0, done.output
    assert f"no Gram matrices beside {trained}: collecting trained.grams.safetensors on" in done.stderr
    kept = (tmp_path / "trained.grams.safetensors").read_bytes()
    again = invoke("merge", trained, "--method", "regmean", "--force")
    assert again.exit_code == 0, again.output
    assert "collecting" not in again.stderr
    assert (tmp_path / "trained.grams.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "said"), [(["--keep", "none.*"], "fits no slot"), (["-o", "taken.safetensors"], "exists")]
)
def test_all_is_checked_before_grams_are_collected(
    words: list[str], said: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_trained(tmp_path / "trained", {"data": [str(shapes)]})
    (tmp_path / "taken.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    done = invoke("merge", trained, "--method", "regmean", *words)
    assert done.exit_code in (1, 2)
    assert said in done.stderr
    assert "collecting" not in done.stderr
    assert not (tmp_path / "trained.grams.safetensors").exists()


def test_a_sweep_and_a_merge_on_the_way_into_training_collect_too(shapes: Path, tmp_path: Path) -> None:
    commands = (
        ["sweep", "--evaluate", "itm", "--method", "regmean"],
        ["finetune", "--task", "retrieval", "--steps", "1", "--merge", "regmean"],
    )
    for number, words in enumerate(commands):
        trained = make_trained(tmp_path / f"trained-{number}", {"data": [str(shapes)]}, ("itc", "itm"))
        data = ["--gamma", "0.5", "--data", str(shapes), "--out", str(tmp_path / f"out-{number}"), "--device", "cpu"]
        done = invoke(words[0], trained, *words[1:], *data)
        assert done.exit_code == 0, done.output
        assert "collecting" in done.stderr, done.output
        assert (tmp_path / f"trained-{number}.grams.safetensors").exists()


def test_regmean_on_data_that_is_gone(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained", {"data": [str(tmp_path / "gone")]})
    done = invoke("merge", trained, "--method", "regmean")
    assert done.exit_code == 1
    assert "the data of the checkpoint cannot be used" in done.stderr
    assert f"vlmerge grams {trained} --data SOURCE" in done.stderr
    bare = make_trained(tmp_path / "bare", {})
    done = invoke("merge", bare, "--method", "regmean")
    assert done.exit_code == 1
    assert f"collect them with vlmerge grams {bare} --data" in done.stderr


def test_help_lists_all_three() -> None:
    done = invoke("grams", "--help")
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("collect", "add", "show"))
    assert "--max-memory" in invoke("grams", "collect", "--help").stdout
