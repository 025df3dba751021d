"""NLVR2's JSON lines with its image pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check, broken
from vlmerge_cli.data.readers.files import chosen, find, head
from vlmerge_cli.data.samples import FileImage, Kind, Statement
from vlmerge_cli.errors import DataError

FILES = {"train": "train.json", "val": "dev.json", "test": "test1.json"}
LABELS = {"true": True, "false": False}


class Nlvr2:
    """``identifier`` (split-set-pair-sentence), ``sentence``, ``label`` and, in train, ``directory`` a line.

    The images of a pair are ``split-set-pair-img0.png`` and ``-img1.png``, in ``images/train/DIRECTORY``,
    ``images/dev`` and ``images/test1``, or in those folders without ``images``.
    """

    kind: ClassVar[Kind] = "statements"

    def __init__(self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists") -> None:
        file = find(path, chosen(FILES, split, path))
        if file is None:
            raise DataError(f"no {FILES[split]}", where=str(path))
        home = _images(path, file, file.stem)
        found: list[Statement] = []
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                statement = _statement(line, home)
                if statement is not None:
                    found.append(statement)
                elif line.strip():
                    bad.add("line without identifier, sentence and label", f"{file.name} line {number}")
        unusable = broken((str(image) for one in found for image in (one.left, one.right)), check, bad)
        self.statements = [one for one in found if not {str(one.left), str(one.right)} & unusable]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        for name in FILES.values():
            file = find(path, name)
            if file is not None and all(f'"{key}"' in head(file) for key in ("identifier", "sentence")):
                return True
        return False

    def __len__(self) -> int:
        return len(self.statements)

    def __getitem__(self, index: int) -> Statement:
        return self.statements[index]


def _images(root: Path, file: Path, stem: str) -> Path:
    places = [base / name for base in (root, file.parent, file.parent.parent) for name in (f"images/{stem}", stem)]
    return next((place for place in places if place.is_dir()), places[0])


def _statement(line: str, home: Path) -> Statement | None:
    try:
        row = json.loads(line)
        name, text, label = row["identifier"], row["sentence"], LABELS[str(row["label"]).lower()]
    except (ValueError, KeyError, TypeError):
        return None
    parts = str(name).split("-")
    stem = "-".join(parts[:-1])
    base = home / str(row["directory"]) if "directory" in row else home
    images = [FileImage(str(base / f"{stem}-img{side}.png")) for side in (0, 1)]
    return Statement(str(name), images[0], images[1], str(text), label, "-".join((*parts[:-2], parts[-1])))
