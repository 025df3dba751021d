"""Captions as Karpathy's JSON has them, for COCO and Flickr30k, with the images in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check, broken
from vlmerge_cli.data.readers.files import first_with, folders, head, read_json, rows
from vlmerge_cli.data.samples import FileImage, Kind, Pair
from vlmerge_cli.errors import DataError

IMAGE_FOLDERS = ("", "images", "flickr30k-images", "flickr30k_images", "coco")


class Karpathy:
    """``images[]`` with ``filename``, maybe ``filepath``, ``split`` and ``sentences[].raw``; one pair a
    caption.

    ``restval`` adds COCO's restval images to train (published code leaves them out). Captions that an image
    has twice are kept once.
    """

    kind: ClassVar[Kind] = "pairs"

    def __init__(
        self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists", restval: bool = False
    ) -> None:
        file = _json_of(path)
        if file is None:
            raise DataError("no captions in Karpathy's form", where=str(path))
        wanted = {split, "restval"} if restval and split == "train" else {split}
        documents = rows(read_json(file), "images", file)
        entries = [row for row in documents if isinstance(row, dict) and row.get("split") in wanted]
        if not entries:
            known = sorted({str(row.get("split")) for row in documents if isinstance(row, dict)})
            raise DataError(f"no image of split '{split}'", where=str(file), fix=f"there are: {', '.join(known)}")
        relative = [_relative(row) for row in entries]
        base = first_with([file.parent / name for name in IMAGE_FOLDERS], next((name for name in relative if name), ""))
        paths = [str(base / name) if name else "" for name in relative]
        used = ([name] * max(1, len(row.get("sentences") or ())) for row, name in zip(entries, paths, strict=True))
        unusable = broken((name for names in used for name in names if name), check, bad)
        self.captions: list[str] = []
        self.files: list[str] = []
        owner: list[int] = []
        for row, name in zip(entries, paths, strict=True):
            texts = _captions(row, name, bad)
            if not name:
                bad.add("entry without a filename", f"{file.name} imgid {row.get('imgid')}", max(1, len(texts)))
            if not name or name in unusable or not texts:
                continue
            owner += [len(self.files)] * len(texts)
            self.captions += texts
            self.files.append(name)
        self.image_ids = np.array(owner, np.int64)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return _json_of(path) is not None

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Pair:
        number = int(self.image_ids[index])
        name = self.files[number]
        return Pair(f"{Path(name).name}#{index}", FileImage(name), self.captions[index], number)


def _relative(row: dict[str, Any]) -> str:
    name = row.get("filename")
    return f"{row['filepath']}/{name}" if name and row.get("filepath") else str(name or "")


def _captions(row: dict[str, Any], name: str, bad: BadSamples) -> list[str]:
    """The captions without doubles; empty ones are counted as bad."""
    texts: dict[str, None] = {}
    for sentence in row.get("sentences") or []:
        text = str(sentence.get("raw") or "").strip()
        if text:
            texts[text] = None
        else:
            bad.add("empty caption", name)
    if not row.get("sentences"):
        bad.add("image without captions", name)
    return list(texts)


def _is_karpathy(path: Path) -> bool:
    start = head(path)
    return '"sentences"' in start and '"filename"' in start


def _json_of(path: Path) -> Path | None:
    """The file itself, or the one in a folder; where there are several, the one whose images are there."""
    if path.is_file():
        return path if path.suffix == ".json" and _is_karpathy(path) else None
    found = [file for folder in folders(path) for file in sorted(folder.glob("*.json")) if _is_karpathy(file)]
    if len(found) < 2:
        return found[0] if found else None
    with_images = []
    for file in found:
        first = next((name for name in map(_relative, rows(read_json(file), "images", file)) if name), "")
        if any((file.parent / folder / first).exists() for folder in IMAGE_FOLDERS):
            with_images.append(file)
    return with_images[0] if with_images else found[0]
