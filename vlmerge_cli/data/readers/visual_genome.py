"""Visual Genome's own files: ``image_data.json`` and ``region_descriptions.json``, with the images in VG_100K*."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check, broken
from vlmerge_cli.data.readers.files import find, read_json
from vlmerge_cli.data.samples import FileImage, Kind, Pair
from vlmerge_cli.errors import DataError

IMAGES, REGIONS = "image_data.json", "region_descriptions.json"
FOLDERS = ("VG_100K", "VG_100K_2", "images", "")


class VisualGenome:
    """One pair a phrase: each image with every phrase that describes a region of it, doubles left out.

    Visual Genome has no splits: all of it is for training, as published (a validation split comes from another
    source of the mixture). Source: Krishna et al., 2017; paper section 4.1.
    """

    kind: ClassVar[Kind] = "pairs"
    splits: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists") -> None:
        if split not in self.splits:
            raise DataError(f"no split '{split}': Visual Genome is all for training", where=str(path))
        phrases = _phrases(_needed(path, REGIONS), bad)
        paths = {number: path for number, path in _images(_needed(path, IMAGES), bad).items() if number in phrases}
        for number in phrases.keys() - paths.keys():
            bad.add(f"regions of an image that is not in {IMAGES}", f"image_id {number}", len(phrases[number]))
        unusable = broken((name for number, name in paths.items() for _ in phrases[number]), check, bad)
        self.captions: list[str] = []
        self.files: list[str] = []
        owner: list[int] = []
        for number, name in sorted(paths.items()):
            if name not in unusable:
                owner += [len(self.files)] * len(phrases[number])
                self.captions += phrases[number]
                self.files.append(name)
        self.image_ids = np.array(owner, np.int64)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return all(find(path, name) is not None for name in (IMAGES, REGIONS))

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Pair:
        number = int(self.image_ids[index])
        name = self.files[number]
        return Pair(f"{Path(name).name}#{index}", FileImage(name), self.captions[index], number)


def _needed(root: Path, name: str) -> Path:
    file = find(root, name)
    if file is None:
        raise DataError(f"no {name}", where=str(root), fix=f"Visual Genome needs {IMAGES} and {REGIONS}")
    return file


def _images(file: Path, bad: BadSamples) -> dict[int, str]:
    """Image id -> path: where its address says, or wherever a folder has a file of that name."""
    folders = [file.parent / name for name in FOLDERS]
    found: dict[int, str] = {}
    for place, row in enumerate(_rows(file)):
        number, parts = _id(row, "image_id", "id"), _address(row)
        if number is None:
            bad.add("image without an id", f"{file.name} row {place}")
            continue
        named = [file.parent / folder / name for folder, name in [parts] if folder in FOLDERS]
        plain = [folder / parts[1] for folder in folders]
        found[number] = str(next((path for path in (*named, *plain) if path.exists()), (*named, *plain)[0]))
    return found


def _address(row: dict[str, Any]) -> tuple[str, str]:
    """Folder and file name of an image: the last two parts of its URL, or its id."""
    *_, folder, name = ("", "", *str(row.get("url") or "").split("/"))
    return (folder, name) if name else ("", f"{_id(row, 'image_id', 'id')}.jpg")


def _phrases(file: Path, bad: BadSamples) -> dict[int, list[str]]:
    """Image id -> its phrases without doubles; empty ones are counted as bad."""
    found: dict[int, list[str]] = {}
    for place, row in enumerate(_rows(file)):
        regions = row.get("regions") if isinstance(row, dict) else None
        listed = [region for region in regions if isinstance(region, dict)] if isinstance(regions, list) else []
        number = _id(row, "id", "image_id")
        number = number if number is not None or not listed else _id(listed[0], "image_id")
        if number is None:
            bad.add("regions without an image id", f"{file.name} row {place}")
            continue
        texts = [str(region.get("phrase") or "").strip() for region in listed]
        if "" in texts:
            bad.add("empty phrase", f"{file.name} image {number}", texts.count(""))
        kept = list(dict.fromkeys(text for text in texts if text))
        if kept:
            found[number] = kept
    return found


def _rows(file: Path) -> list[Any]:
    """The list that a file is. Raises DataError."""
    document = read_json(file)
    if not isinstance(document, list):
        raise DataError("not a list of images", where=str(file), fix="take the file as Visual Genome publishes it")
    return document


def _id(row: Any, *names: str) -> int | None:
    """The first of these fields that is a whole number, written as one or as text."""
    for name in names if isinstance(row, dict) else ():
        if str(row.get(name)).isdecimal():
            return int(row[name])
    return None
