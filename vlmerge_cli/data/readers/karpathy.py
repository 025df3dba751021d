"""Captions as Karpathy's JSON has them, for COCO and Flickr30k, with the images in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check, broken
from vlmerge_cli.data.readers.files import first_with, folders, head, read_json, rows, texts
from vlmerge_cli.data.samples import FileImage, Kind, Pair
from vlmerge_cli.errors import DataError

IMAGE_FOLDERS = ("", "images", "flickr30k-images", "flickr30k_images", "coco")

#: Images looked for before it is said that none is there: the first may be missing.
MOST_TRIED = 100


class Karpathy:
    """``images[]`` with ``filename``, maybe ``filepath``, ``split`` and ``sentences[].raw``; one pair a
    caption. Or the list of LAVIS and BLIP: ``image`` and ``caption``, one or several, its split in the file's name.

    ``restval`` adds COCO's restval images to train (published code leaves them out). Captions that an image
    has twice are kept once.
    """

    kind: ClassVar[Kind] = "pairs"

    def __init__(
        self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists", restval: bool = False
    ) -> None:
        file = _json_of(path, split)
        if file is None:
            raise DataError("no captions in Karpathy's form", where=str(path))
        wanted = {split, "restval"} if restval and split == "train" else {split}
        documents = _rows(file)
        entries = [row for row in documents if row.get("split") in wanted]
        if not entries:
            known = sorted({str(row.get("split")) for row in documents})
            raise DataError(f"no image of split '{split}'", where=str(file), fix=f"there are: {', '.join(known)}")
        relative = [_relative(row) for row in entries]
        base = _base(file, relative)
        paths = [str(base / name) if name else "" for name in relative]
        used = ([name] * max(1, len(texts(row.get("sentences")))) for row, name in zip(entries, paths, strict=True))
        unusable = broken((name for names in used for name in names if name), check, bad)
        self.captions: list[str] = []
        self.files: list[str] = []
        owner: list[int] = []
        for row, name in zip(entries, paths, strict=True):
            captions = _captions(row, name, bad)
            if not name:
                bad.add("entry without a filename", f"{file.name} imgid {row.get('imgid')}", max(1, len(captions)))
            if not name or name in unusable or not captions:
                continue
            owner += [len(self.files)] * len(captions)
            self.captions += captions
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


def _rows(file: Path) -> list[dict[str, Any]]:
    """The entries of a file, those of LAVIS and BLIP in Karpathy's words. Raises DataError."""
    document = read_json(file)
    if not isinstance(document, list):
        return [row for row in rows(document, "images", file) if isinstance(row, dict)]
    split = _split_of(file)
    listed: dict[str, dict[str, Any]] = {}  # an image of several rows, as in the list for training, is one
    for row in document:
        if isinstance(row, dict):
            name = str(row.get("image") or "")
            entry = listed.setdefault(
                name, {"filename": name, "split": split, "sentences": [], "imgid": row.get("image_id")}
            )
            entry["sentences"] += texts(row.get("caption"))
    return list(listed.values())


def _split_of(file: Path) -> str:
    """The split that a file's name ends in."""
    return next((split for split in ("train", "val", "test") if file.stem.lower().endswith(split)), "train")


def _base(file: Path, relative: list[str]) -> Path:
    """The folder that images lie below: that of the first of them which is there."""
    roots = [file.parent / name for name in IMAGE_FOLDERS]
    for name in relative[:MOST_TRIED]:
        if name and (found := first_with(roots, name)) and (found / name).exists():
            return found
    return roots[0]


def _relative(row: dict[str, Any]) -> str:
    name = row.get("filename")
    return f"{row['filepath']}/{name}" if name and row.get("filepath") else str(name or "")


def _captions(row: dict[str, Any], name: str, bad: BadSamples) -> list[str]:
    """The captions without doubles; empty ones are counted as bad."""
    found = texts(row.get("sentences"))
    for _ in range(found.count(None)):
        bad.add("empty caption", name)
    if not found:
        bad.add("image without captions", name)
    return list(dict.fromkeys(text for text in found if text is not None))


def _is_karpathy(path: Path) -> bool:
    start = head(path)
    if start.lstrip().startswith("["):
        return '"image"' in start and '"caption"' in start
    return '"sentences"' in start and '"filename"' in start


def _json_of(path: Path, split: str = "") -> Path | None:
    """The file itself, or the one in a folder; of several, one of that split whose images are there."""
    if path.is_file():
        return path if path.suffix == ".json" and _is_karpathy(path) else None
    found = [file for folder in folders(path) for file in sorted(folder.glob("*.json")) if _is_karpathy(file)]
    if len(found) < 2:
        return found[0] if found else None
    of_split = [file for file in found if head(file).lstrip().startswith("[") and _split_of(file) == split]
    for file in of_split or found:
        names = [name for name in map(_relative, _rows(file)) if name]
        if any((_base(file, names) / name).exists() for name in names[:MOST_TRIED]):
            return file
    return (of_split or found)[0]
