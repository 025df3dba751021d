"""ImageNet as folders: one folder of images a class, in a folder for each split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import ENDINGS, Check, broken
from vlmerge_cli.data.samples import FileImage, Kind, Labelled
from vlmerge_cli.errors import DataError

SPLITS = ("train", "val", "test")


class ClassFolders:
    """``SPLIT/CLASS/*.JPEG``; labels number the class folders of train (or of the split alone) in sorted
    order.
    """

    kind: ClassVar[Kind] = "labels"

    def __init__(self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists") -> None:
        home = path / split
        if not home.is_dir():
            there = ", ".join(name for name in SPLITS if (path / name).is_dir())
            raise DataError(f"no folder '{split}'", where=str(path), fix=f"there are: {there}")
        self.class_names = _subfolders(path / "train") or _subfolders(home)
        number = {name: label for label, name in enumerate(self.class_names)}
        files: list[tuple[str, int]] = []
        for name in _subfolders(home):
            inside = [entry for entry in sorted((home / name).iterdir()) if entry.suffix.lower() in ENDINGS]
            if name not in number:
                bad.add("class that train does not have", str(home / name), len(inside))
            elif not inside:
                bad.add("class without images", str(home / name), 0)
            else:
                files += [(str(entry), number[name]) for entry in inside]
        unusable = broken((name for name, _ in files), check, bad)
        self.files = [entry for entry in files if entry[0] not in unusable]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A split's folder with a folder in it that has an image and no folder."""
        for split in SPLITS:
            for name in _subfolders(path / split)[:3]:
                entries = list((path / split / name).iterdir())
                if any(entry.suffix.lower() in ENDINGS for entry in entries) and not any(map(Path.is_dir, entries)):
                    return True
        return False

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Labelled:
        name, label = self.files[index]
        return Labelled("/".join(Path(name).parts[-2:]), FileImage(name), label)


def _subfolders(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir())) if path.is_dir() else ()
