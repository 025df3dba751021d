"""A checkpoint, merged or not, ready to be asked: it takes pictures and sentences and does the rest itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmerge_cli import devices
from vlmerge_cli.data.bad import BadSample, BadSamples
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.data.transforms import Augment, normalised
from vlmerge_cli.errors import DataError, UsageError
from vlmerge_cli.inference.pictures import Picture, prepared
from vlmerge_cli.model.hidden import State
from vlmerge_cli.training.pretrain_config import VIEWS
from vlmerge_cli.training.start import Start
from vlmerge_cli.weights.vlmodel import VLModel

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    PictureLike: TypeAlias = str | Path | PillowImage

Vectors = NDArray[np.float32]
Progress = Callable[[int], object]
T = TypeVar("T")
MASK = "[MASK]"
MOST_THREADS = 8  # that read and decode pictures


class Guess(NamedTuple):
    """A word and its probability in [0, 1]."""

    word: str
    probability: float


class Coverage(NamedTuple):
    """How much of some texts reaches the model."""

    num_cut: int  # texts longer than the model takes
    unknown_ratio: float  # share of their pieces that the vocabulary does not know


@dataclass(frozen=True)
class LoadedModel:
    """Made by ``load``. Pictures are paths or PIL images, prepared as evaluation prepares them."""

    model: VLModel
    tokenizer: Tokenizer
    view: Augment  # what is seen of a picture
    batch_size: int = 32

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.model.config.width

    @torch.inference_mode()
    def embed_images(
        self, images: Iterable[PictureLike], progress: Progress | None = None, bad: BadSamples | None = None
    ) -> Vectors:
        """Vectors of length 1, (n, width) float32; their products with those of texts are cosines.

        Raises DataError for a picture that cannot be read; with ``bad`` it is counted there, its row is NaN.
        Raises UsageError for a model without an itc or retrieval head.
        """
        self._need("itc", "retrieval")
        return self._stacked(self._picture_features(images, bad), progress)

    @torch.inference_mode()
    def embed_texts(self, texts: Iterable[str], progress: Progress | None = None) -> Vectors:
        """Vectors of length 1, (n, width) float32. A text longer than the model takes is cut (see ``coverage``).

        Raises UsageError for a model without an itc or retrieval head.
        """
        self._need("itc", "retrieval")
        features = (self.model.features(self._text(part)) for part in _chunks(_listed(texts), self.batch_size))
        return self._stacked(features, progress)

    @torch.inference_mode()
    def match(self, image: PictureLike, texts: Iterable[str]) -> list[float]:
        """For each text the probability that it belongs to the picture, by the image-text matching head.

        Raises DataError for a picture that cannot be read, UsageError for a model without an itm head.
        """
        self._need("itm")
        picture, found = self._image(image), []
        for part in _chunks(_listed(texts), self.batch_size):
            text = self._text(part)
            scores = self.model.itm(self.model.fuse(text, picture[torch.zeros(len(part), dtype=torch.long)]))  # (B, 2)
            found += torch.softmax(scores, 1)[:, 1].tolist()
        return found

    @torch.inference_mode()
    def fill_mask(self, text: str, image: PictureLike | None = None, num: int = 5) -> list[list[Guess]]:
        """For each ``[MASK]`` of the text its ``num`` most probable word pieces, given the rest and the picture.

        Without a picture the text passes the same layers alone. Raises UsageError for a text without ``[MASK]`` (in
        the part that the model takes) and for a model without an mlm head.
        """
        self._need("mlm")
        ids = torch.from_numpy(self.tokenizer.encode(_spaced(text)))
        places = (ids == self.tokenizer.mask).nonzero()[:, 0]
        if not len(places):
            raise UsageError(f"no {MASK} in {text!r}", fix=f"write {MASK} for each word that is asked for")
        state = self._text([_spaced(text)])
        if image is None:
            hidden = self.model.alone(state, "vl")
        else:
            hidden = self.model.fuse(state, self._image(image)).text
        shares = torch.softmax(self.model.mlm(hidden[0, places.to(hidden.device)]), 1).cpu()  # (masks, vocabulary)
        words = self.tokenizer.ordinary
        top = shares[:, torch.from_numpy(words)].topk(min(num, len(words)), dim=1)
        piece = self.tokenizer.inner.id_to_token
        return [
            [Guess(piece(int(words[at])), share) for share, at in zip(own, best, strict=True)]
            for own, best in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]

    def coverage(self, texts: Iterable[str]) -> Coverage:
        """What of the texts the model does not see."""
        room, unknown = self.tokenizer.length_tokens - 2, self.tokenizer.ids["[UNK]"]
        pieces = [self.tokenizer.inner.encode(text, add_special_tokens=False).ids for text in _listed(texts)]
        num = sum(map(len, pieces))
        return Coverage(sum(len(own) > room for own in pieces), sum(own.count(unknown) for own in pieces) / max(num, 1))

    # --- parts ---

    def _need(self, *heads: str) -> None:
        own = self.model.config.heads
        if not set(heads) & set(own):
            what = f"the model has no {' or '.join(heads)} head: its heads are {', '.join(own) or 'none'}"
            raise UsageError(what, fix="use a checkpoint that has one, such as the one that it was fine-tuned from")

    def _text(self, texts: Sequence[str]) -> State:
        ids = torch.from_numpy(np.stack([self.tokenizer.encode(text) for text in texts])).to(self._device)
        return self.model.text(ids, ids != self.tokenizer.pad)

    def _image(self, image: PictureLike) -> State:
        try:
            pixels = prepared(Picture.of(image), self.model.config.image_px, self.view)
        except BadSample as signal:
            raise DataError(signal.problem.reason, where=signal.problem.example) from None
        return self.model.image(normalised(torch.from_numpy(pixels)[None].to(self._device)))

    def _picture_features(self, images: Iterable[PictureLike], bad: BadSamples | None) -> Iterator[Tensor]:
        px = self.model.config.image_px
        with ThreadPoolExecutor(min(MOST_THREADS, devices.num_cpus())) as pool:
            for part in _chunks(_listed(images), self.batch_size):
                waiting = [pool.submit(prepared, Picture.of(image), px, self.view) for image in part]
                pixels, valid = np.zeros((len(part), 3, px, px), np.uint8), np.ones(len(part), bool)
                for row, one in enumerate(waiting):
                    try:
                        pixels[row] = one.result()
                    except BadSample as signal:
                        if bad is None:
                            raise DataError(signal.problem.reason, where=signal.problem.example) from None
                        bad.add(*signal.problem)
                        valid[row] = False
                features = self.model.features(self.model.image(normalised(torch.from_numpy(pixels).to(self._device))))
                yield features.masked_fill(~torch.from_numpy(valid).to(features.device)[:, None], torch.nan)

    def _stacked(self, parts: Iterator[Tensor], progress: Progress | None) -> Vectors:
        found = []
        for part in parts:
            found.append(part.float().cpu().numpy())
            if progress is not None:
                progress(len(part))
        return np.concatenate([np.zeros((0, self.width), np.float32), *found])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def load(
    checkpoint: str | Path, *, device: str = "auto", tokenizer: str | None = None, batch_size: int = 32
) -> LoadedModel:
    """A model to use on pictures and sentences of one's own, from a folder, a file, or ``org/name`` on the Hub.

        model = load("runs/merged")
        model.embed_images(["cat.jpg"]) @ model.embed_texts(["a cat", "a dog"]).T
        model.match("cat.jpg", ["a cat", "a dog"])
        model.fill_mask("a [MASK] on a mat", "cat.jpg")

    The vocabulary and the way pictures are prepared are those that the checkpoint records; ``tokenizer`` names the
    vocabulary of one that records none. Raises CheckpointError, UsageError for another vocabulary than the model's.
    """
    where = devices.for_model(device)
    model = VLModel.from_pretrained(checkpoint)
    assert model.place is not None, "the model was loaded"
    start = Start(str(checkpoint), model.config, model.about, model.place)
    words = start.load_tokenizer(model.config, tokenizer)
    return LoadedModel(model.to(where).eval(), words, VIEWS.get(start.view, VIEWS["whole"]), batch_size)


def _spaced(text: str) -> str:
    """``[mask]`` in any case, set apart from its neighbours."""
    return re.sub(r"\s*\[mask\]\s*", f" {MASK} ", text, flags=re.IGNORECASE).strip()


def _listed(items: Iterable[T]) -> list[T]:
    if isinstance(items, str | Path):
        raise UsageError(f"one {type(items).__name__} where several are expected", fix="give a list")
    return list(items)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
