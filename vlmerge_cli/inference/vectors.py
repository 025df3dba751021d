"""Vectors of a folder of pictures and of a list of texts: kept in a file, or searched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmerge_cli import console
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import create
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.unpaired_images_and_texts import images_in
from vlmerge_cli.errors import DataError
from vlmerge_cli.inference.loaded import LoadedModel, Vectors
from vlmerge_cli.result_base import Result

ENOUGH_UNKNOWN = 0.1  # share of pieces that the vocabulary does not know, from which on it is said


@dataclass(frozen=True)
class Embedded:
    """Pictures by their paths below ``folder``, texts, and a vector of length 1 for each: (n, width) float32."""

    folder: str
    image_names: tuple[str, ...]
    images: Vectors
    texts: tuple[str, ...]
    text_vectors: Vectors


@dataclass(frozen=True)
class Found(Result):
    """A picture that was found: its cosine with the text, in [-1, 1]."""

    image: str
    cosine: float


def embedded(model: LoadedModel, folder: Path | None, texts: Sequence[str], max_bad_ratio: float = 0.0) -> Embedded:
    """Every picture in a folder and those below it, and every text; progress on stderr.

    Raises DataError for a folder without pictures, or with more unreadable ones than ``max_bad_ratio``.
    """
    names: tuple[str, ...] = ()
    vectors = np.zeros((0, model.width), np.float32)
    if folder is not None:
        paths = [str(image) for image in images_in(folder)]
        bad = BadSamples(max_bad_ratio, fix="mend the pictures, or go on without them: --skip-bad")
        with console.progress("pictures", len(paths), "pictures") as advance:
            vectors = model.embed_images(paths, advance, bad)
        usable = ~np.isnan(vectors[:, 0])
        bad.settle(int(usable.sum()), str(folder))
        if bad.num_bad:
            console.warn(f"skipped {bad.report()}")
        names = tuple(str(Path(path).relative_to(folder)) for path, one in zip(paths, usable, strict=True) if one)
        vectors = vectors[usable]
    _say_coverage(model, texts)
    with console.progress("texts", len(texts), "texts") as advance:
        text_vectors = model.embed_texts(texts, advance)
    return Embedded(str(folder or ""), names, vectors, tuple(texts), text_vectors)


def write(found: Embedded, checkpoint: str, target: Target) -> dict[str, Any]:
    """``images`` and ``texts`` as safetensors, their names in the metadata; whole or absent. What was written."""
    tensors = {"images": found.images, "texts": found.text_vectors}
    tensors = {name: values for name, values in tensors.items() if len(values)}
    if not tensors:
        raise DataError("nothing to embed", fix="give pictures, texts or both")
    with open_checkpoint(checkpoint) as opened:
        digest = opened.fingerprint()
    about = {"checkpoint": digest, "image_names": found.image_names, "texts": found.texts}
    specs = {name: Spec("F32", values.shape) for name, values in tensors.items()}
    with create(target, specs, {"format": "pt", "vlmerge": json.dumps(about, sort_keys=True)}) as output:
        for name, values in tensors.items():
            output.write(name, 0, np.ascontiguousarray(values))
    width = found.images.shape[1]
    return {"output": str(target.path), "num_images": len(found.images), "num_texts": len(found.texts), "width": width}


def search(found: Embedded, num: int) -> dict[str, list[Found]]:
    """For each text the pictures with the highest cosines, the best first; of equal ones the first by name."""
    cosines = found.text_vectors @ found.images.T  # (texts, images)
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :num]
    return {
        text: [Found(str(Path(found.folder) / found.image_names[at]), float(cosines[row, at])) for at in best[row]]
        for row, text in enumerate(found.texts)
    }


def _say_coverage(model: LoadedModel, texts: Sequence[str]) -> None:
    coverage = model.coverage(texts)
    if coverage.num_cut:
        room = model.tokenizer.length_tokens - 2
        console.warn(f"{coverage.num_cut} of {len(texts)} texts are cut: the model takes {room} word pieces")
    if coverage.unknown_ratio >= ENOUGH_UNKNOWN:
        console.warn(f"{coverage.unknown_ratio:.0%} of the texts' word pieces are unknown to the model's vocabulary")
