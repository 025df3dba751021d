"""Images and texts that need not belong together, as a data set of pairs: image i beside text i, each in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vlmerge_cli.data.images import ENDINGS
from vlmerge_cli.data.samples import FileImage, Image, Kind, Pair
from vlmerge_cli.data.sources import DataSet, Source
from vlmerge_cli.errors import DataError


@dataclass(frozen=True)
class Unpaired:
    """As many samples as there are of the more numerous; without texts all captions are empty."""

    images: Sequence[Image]
    texts: Sequence[str] = ("",)
    kind: ClassVar[Kind] = "pairs"

    def __len__(self) -> int:
        return max(len(self.images), len(self.texts))

    def __getitem__(self, index: int) -> Pair:
        number = index % len(self.images)
        image = self.images[number]
        return Pair(str(image), image, self.texts[index % len(self.texts)], number)


def unpaired(name: str, images: Sequence[Image], texts: Sequence[str] = ("",)) -> DataSet:
    """The data set of one source."""
    reader = Unpaired(images, texts)
    return DataSet("pairs", "train", (Source(name, reader, float(len(reader))),))  # type: ignore[arg-type]


def images_in(folder: Path) -> list[Image]:
    """Every picture in a folder and those below it, in the order of their paths. Raises DataError for none."""
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder))
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise DataError("no picture in the folder", where=str(folder), fix=f"known endings: {', '.join(ENDINGS)}")
    return [FileImage(str(path)) for path in found]


def lines_of(file: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises DataError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", where=str(file)) from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataError("no text in the file", where=str(file), fix="write one text a line")
    return found
