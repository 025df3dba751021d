"""embed and search: what they write and show is what the loaded model says, before and after merging."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from tests.model.conftest import build
from vlmerge_cli.cli import app
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.inference.loaded import load
from vlmerge_cli.model.config import PRETRAINING_HEADS, preset
from vlmerge_cli.weights import vocabulary

RUN = CliRunner()
TEXTS = ["a red circle", "two blue squares"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a checkpoint, its merge, pictures, texts."""
    monkeypatch.chdir(tmp_path)
    model = build(preset("micro", heads=PRETRAINING_HEADS, vocab_size=96, max_text_tokens=20, text_bias_tokens=20))
    words = load_tokenizer("bundled", 20)
    model.save_pretrained("ckpt", about=vocabulary.noted(words, "bundled"), tokenizer=words)
    assert RUN.invoke(app, ["merge", "ckpt", "-o", "merged"]).exit_code == 0
    draw = np.random.default_rng(3)
    for name in ("a.png", "b/c.png", "b/<d>.jpg"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "pictures" / name)
    (tmp_path / "texts.txt").write_text(f"{TEXTS[0]}\n\n{TEXTS[1]}\n")
    return tmp_path


@pytest.mark.parametrize("checkpoint", ["ckpt", "merged"])
def test_vectors_and_their_names(work: Path, checkpoint: str) -> None:
    options = ["--images", "pictures", "--texts", "texts.txt", "-o", "out.safetensors", "--json"]
    result = RUN.invoke(app, ["embed", checkpoint, *options])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"output": "out.safetensors", "num_images": 3, "num_texts": 2, "width": 16}
    with safe_open("out.safetensors", "np") as file:
        images, texts = file.get_tensor("images"), file.get_tensor("texts")
        about = json.loads(file.metadata()["vlmerge"])
    assert about["image_names"] == ["a.png", "b/<d>.jpg", "b/c.png"]
    assert about["texts"] == TEXTS
    model = load(checkpoint, device="cpu")
    expected = model.embed_images([f"pictures/{name}" for name in about["image_names"]])
    np.testing.assert_allclose(images, expected, atol=1e-6)
    np.testing.assert_allclose(texts, model.embed_texts(TEXTS), atol=1e-6)
    before = Path("out.safetensors").read_bytes()
    again = RUN.invoke(app, ["embed", checkpoint, *options])
    assert (again.exit_code, "exists" in again.stderr) == (2, True)
    assert Path("out.safetensors").read_bytes() == before


def test_search_ranks_by_cosine_and_shows_the_pictures(work: Path) -> None:
    options = ["--images", "pictures", *TEXTS, "--num", "2", "--page", "found.html"]
    result = RUN.invoke(app, ["search", "merged", *options, "--json"])
    assert result.exit_code == 0, result.stderr
    model, names = load("merged", device="cpu"), ["a.png", "b/<d>.jpg", "b/c.png"]
    cosines = model.embed_texts(TEXTS) @ model.embed_images([f"pictures/{name}" for name in names]).T
    for text, row in zip(TEXTS, cosines, strict=True):
        best = sorted(range(3), key=lambda at: -row[at])[:2]
        found = json.loads(result.stdout)[text]
        assert [one["image"] for one in found] == [f"pictures/{names[at]}" for at in best]
        assert [one["cosine"] for one in found] == pytest.approx([row[at] for at in best], abs=1e-6)
    page = Path("found.html").read_text()
    assert "<d>" not in page
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [Image.open(io.BytesIO(base64.b64decode(data))).size for data in shown] == [(60, 40)] * 4
    again = RUN.invoke(app, ["search", "merged", *options])
    assert (again.exit_code, "found.html" in again.stderr) == (2, True)
    shown = RUN.invoke(app, ["search", "merged", *options[:-2]]).stdout
    assert TEXTS[1] in shown
    assert f"{cosines[0].max():.3f}" in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["embed", "ckpt", "-o", "out.safetensors"], 2, "nothing to embed"),
        (["embed", "ckpt", "-o", "out", "--texts", "texts.txt"], 2, "name a .safetensors file"),
        (["embed", "ckpt", "-o", "out.safetensors", "--images", "nowhere"], 1, "no such folder"),
        (["embed", "ckpt", "-o", "out.safetensors", "--texts", "nowhere"], 1, "cannot be read"),
        (["embed", "nowhere", "-o", "out.safetensors", "--texts", "texts.txt"], 1, "no such file or folder"),
        (["embed", "ckpt", "-o", "out.safetensors", "--images", "broken"], 1, "--skip-bad"),
        (["search", "ckpt", "a red circle", "--images", "ckpt"], 1, "no picture in the folder"),
        (["search", "ckpt", "a red circle", "--images", "pictures", "--page", "texts.txt"], 2, "texts.txt"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(work: Path, words: list[str], code: int, message: str) -> None:
    (work / "broken").mkdir()
    (work / "broken/x.png").write_bytes((work / "pictures/a.png").read_bytes()[:100])
    (work / "broken/y.png").write_bytes((work / "pictures/a.png").read_bytes())
    before = sorted(work.rglob("*"))
    result = RUN.invoke(app, words)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert sorted(work.rglob("*")) == before
    if "broken" in words:
        result = RUN.invoke(app, [*words, "--skip-bad", "--json"])
        assert json.loads(result.stdout)["num_images"] == 1
        assert "skipped 1" in result.stderr


def test_words_that_the_model_does_not_know_are_said(work: Path) -> None:
    (work / "texts.txt").write_text("our golden retriever sleeping near windows\n" + "a red circle " * 10)
    result = RUN.invoke(app, ["embed", "ckpt", "--texts", "texts.txt", "-o", "out.safetensors"])
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "1 of 2 texts are cut: the model takes 18 word pieces" in said
    assert re.search(r"\d+% of the texts' word pieces are unknown", said)
