"""ADE20k's folders: images, and label pictures of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import ENDINGS, Check, broken
from vlmerge_cli.data.readers.files import chosen, find, folders
from vlmerge_cli.data.samples import FileImage, Kind, Masked
from vlmerge_cli.errors import DataError

SPLITS = {"train": "training", "val": "validation", "test": "testing"}
NUM_CLASSES = 150


class Ade20k:
    """``images/training/X.jpg`` with ``annotations/training/X.png``; labels 1 ... 150, 0 is not labelled.

    ``class_names`` are those of objectInfo150.txt where it is there (as many as it lists), else numbers.
    """

    kind: ClassVar[Kind] = "masks"

    def __init__(self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists") -> None:
        root = _root(path)
        name = chosen(SPLITS, split, path)
        if root is None or not (root / "images" / name).is_dir():
            raise DataError(f"no folder images/{name}", where=str(root or path))
        images = {file.stem: file for file in sorted((root / "images" / name).iterdir()) if _is_image(file)}
        masks = {file.stem: file for file in sorted((root / "annotations" / name).glob("*.png"))}
        for stem in sorted(images.keys() - masks.keys()):
            bad.add("image without an annotation", str(images[stem]))
        for stem in sorted(masks.keys() - images.keys()):
            bad.add("annotation without an image", str(masks[stem]))
        both = [stem for stem in images if stem in masks]
        unusable = broken((str(images[stem]) for stem in both), check, bad)
        unusable |= broken((str(masks[stem]) for stem in both), check, bad, "annotation")
        self.pairs = [
            (str(images[stem]), str(masks[stem]))
            for stem in both
            if not {str(images[stem]), str(masks[stem])} & unusable
        ]
        self.class_names = _names(root)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return _root(path) is not None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Masked:
        image, mask = self.pairs[index]
        return Masked(Path(image).name, FileImage(image), FileImage(mask))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def _root(path: Path) -> Path | None:
    for folder in folders(path):
        if (folder / "images").is_dir() and (folder / "annotations").is_dir():
            return folder
    return None


def _names(root: Path) -> tuple[str, ...]:
    file = find(root, "objectInfo150.txt")
    if file is None:
        return tuple(str(number) for number in range(1, NUM_CLASSES + 1))
    lines = file.read_text(encoding="utf-8").splitlines()[1:]
    return tuple(line.split("\t")[-1].strip() for line in lines if line.strip())
