"""What a loaded model says of pictures and sentences is what the model's own passes say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlmerge_cli as vlmerge
from tests.model.conftest import build
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.errors import DataError, UsageError
from vlmerge_cli.inference.loaded import LoadedModel, load
from vlmerge_cli.model.config import PRETRAINING_HEADS, preset
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.vlmodel import VLModel

TEXTS = ["a red circle", "two blue squares above a green star", "a [MASK] cross"]
SIZES = {"vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def make(architecture: str = "specific", heads: tuple[str, ...] = PRETRAINING_HEADS, view: str = "whole") -> Path:
        model = build(preset("micro", architecture=architecture, heads=heads, **SIZES))
        words = load_tokenizer("bundled", 20)
        about = {**vocabulary.noted(words, "bundled"), "run": {"view": view}}
        model.save_pretrained(tmp_path / "ckpt", about=about, tokenizer=words)
        return tmp_path / "ckpt"

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """As large as the model takes, so that nothing is resized; one larger and not square."""
    draw = np.random.default_rng(3)
    (tmp_path / "pictures").mkdir()
    paths = [tmp_path / "pictures" / f"{number}.png" for number in range(5)]
    for path, shape in zip(paths, [(8, 8)] * 4 + [(20, 32)], strict=True):
        Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
    return paths


def pixels(path: Path, box: tuple[float, float, float, float] | None = None) -> torch.Tensor:
    """(1, 3, 8, 8) in [-1, 1], read plainly."""
    with Image.open(path) as opened:
        picture = opened.resize((8, 8), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1


def ids(model: LoadedModel, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    row = torch.from_numpy(model.tokenizer.encode(text))[None]
    return row, row != 0


@pytest.mark.parametrize("architecture", ["specific", "agnostic"])
@torch.no_grad()
def test_vectors_are_the_features_of_each_alone(
    architecture: str, checkpoint: Callable[..., Path], pictures: list[Path]
) -> None:
    model = load(checkpoint(architecture), device="cpu", batch_size=2)
    own = VLModel.from_pretrained(checkpoint(architecture))
    images, texts = model.embed_images(pictures), model.embed_texts(TEXTS)
    assert (images.shape, texts.shape, images.dtype) == ((5, 16), (3, 16), np.float32)
    for path, found in zip(pictures, images, strict=True):
        expected = own.features(own.image(pixels(path)))[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)
    for text, found in zip(TEXTS, texts, strict=True):
        expected = own.features(own.text(*ids(model, text)))[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    with Image.open(pictures[4]) as picture:
        found = model.embed_images([picture, str(pictures[0])])
    np.testing.assert_allclose(found, images[[4, 0]], atol=1e-6)


@torch.no_grad()
def test_pictures_are_prepared_as_the_checkpoint_records(checkpoint: Callable[..., Path], pictures: list[Path]) -> None:
    model = load(checkpoint(view="centre"), device="cpu")
    side = 20 * 224 / 256  # of the shorter side, the middle
    box = ((32 - side) / 2, (20 - side) / 2, (32 + side) / 2, (20 + side) / 2)
    expected = model.model.features(model.model.image(pixels(pictures[4], box)))[0]
    torch.testing.assert_close(torch.from_numpy(model.embed_images(pictures[4:])[0]), expected, rtol=0, atol=1e-5)


def test_a_picture_that_has_changed_is_read_again(checkpoint: Callable[..., Path], pictures: list[Path]) -> None:
    model = load(checkpoint(), device="cpu")
    before = model.embed_images(pictures[:2])
    shutil.copy(pictures[1], pictures[0])
    after = model.embed_images(pictures[:1])
    np.testing.assert_allclose(after[0], before[1], atol=1e-6)
    assert abs(after[0] - before[0]).max() > 1e-3


@torch.no_grad()
def test_match_is_the_probability_of_the_matching_head(checkpoint: Callable[..., Path], pictures: list[Path]) -> None:
    model = load(checkpoint(), device="cpu", batch_size=2)
    found = model.match(pictures[0], TEXTS)
    for text, probability in zip(TEXTS, found, strict=True):
        joint = model.model.joint(*ids(model, text), pixels(pictures[0]))
        assert probability == pytest.approx(model.model.itm(joint).softmax(1)[0, 1].item(), abs=1e-6)


@torch.no_grad()
def test_masks_are_filled_by_the_words_head(checkpoint: Callable[..., Path], pictures: list[Path]) -> None:
    model = load(checkpoint(), device="cpu")
    text = "a [MASK] circle and a [MASK]."
    row, mask = ids(model, text)
    for image in (None, pictures[0]):
        if image is None:
            hidden = model.model.alone(model.model.text(row, mask), "vl")
        else:
            hidden = model.model.joint(row, mask, pixels(image)).text
        shares = model.model.mlm(hidden[0, row[0] == model.tokenizer.mask]).softmax(1)
        found = model.fill_mask("a [mask]circle and a[MASK] .", image, num=3)
        assert len(found) == 2
        for guesses, own in zip(found, shares, strict=True):
            best = sorted(model.tokenizer.ordinary.tolist(), key=lambda number: -own[number].item())[:3]
            assert [guess.word for guess in guesses] == [model.tokenizer.inner.id_to_token(number) for number in best]
            assert [guess.probability for guess in guesses] == pytest.approx(own[best].tolist(), abs=1e-6)


def test_what_a_model_does_not_see_of_a_text(checkpoint: Callable[..., Path]) -> None:
    model = load(checkpoint(), device="cpu")
    assert model.coverage(["a red circle", "a red circle " * 7]) == (1, 0.0)
    assert model.coverage(["a circle", "golden retriever"]) == (0, 0.5)


def test_what_cannot_be_asked(checkpoint: Callable[..., Path], pictures: list[Path], tmp_path: Path) -> None:
    model = load(checkpoint(), device="cpu")
    with pytest.raises(UsageError, match="no \\[MASK\\] in 'a circle'"):
        model.fill_mask("a circle")
    with pytest.raises(UsageError, match="one str where several are expected"):
        model.embed_texts("a circle")
    with pytest.raises(DataError, match="missing image"):
        model.embed_images([tmp_path / "nowhere.png"])
    pictures[1].write_bytes(pictures[1].read_bytes()[:60])
    for ask in (lambda: model.embed_images(pictures), lambda: model.match(pictures[1], TEXTS)):
        with pytest.raises(DataError, match=r"truncated or unreadable image.*\n?.*1\.png"):
            ask()
    retrieval = load(checkpoint(heads=("retrieval",)), device="cpu")
    assert retrieval.embed_texts([]).shape == (0, 16)
    for ask in (lambda: retrieval.match(pictures[0], TEXTS), lambda: retrieval.fill_mask("[MASK]")):
        with pytest.raises(UsageError, match="its heads are retrieval"):
            ask()
    with pytest.raises(UsageError, match="no itc or retrieval head"):
        load(checkpoint(heads=("vqa",)), device="cpu").embed_texts(TEXTS)


def test_load_is_a_public_name() -> None:
    assert vlmerge.load is load
