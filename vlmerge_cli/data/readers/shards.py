"""Tar shards: image-text pairs as img2dataset writes them, and images with a class number (.cls)."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from statistics import median
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli import console, ranks
from vlmerge_cli.data.bad import BadSample, BadSamples
from vlmerge_cli.data.samples import Kind, Labelled, Pair, Slice
from vlmerge_cli.data.tarindex import COLUMNS, ShardIndex, index
from vlmerge_cli.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
TRUNCATED = ("truncated tar", "corrupt tar")


class Shards:
    """Samples of all shards in order, found through each shard's index; ``starts`` is where each shard
    begins.

    ``path`` is a folder of .tar files (or one with a folder for the split), one .tar, or a range such as
    ``{00000..00331}.tar``. A shard of the range, or of the numbering, that is not there counts as
    lost samples: as many as its ``_stats.json`` says, else as a shard has in the median. So do truncated
    ones.
    """

    columns: ClassVar[tuple[str, ...]]  # which members may hold the text or label, best first

    def __init__(self, path: Path, split: str, bad: BadSamples) -> None:
        self.paths, missing = _shards(path, split)
        indices = _indices(self.paths)
        typical = int(median([len(one.members) for one in indices])) if indices else 1
        chosen = [self._chosen(file, one, bad) for file, one in zip(self.paths, indices, strict=True)]
        for file, one in zip(self.paths, indices, strict=True):
            self._count(file, one, typical, bad)
        for file in missing:
            bad.add("missing shard", str(file), _expected(file) or typical)
        self.starts = np.cumsum([0, *map(len, chosen)])
        self.members = np.concatenate(chosen) if chosen else np.zeros((0, 5), np.int64)

    def __len__(self) -> int:
        return len(self.members)

    def place(self, number: int) -> tuple[str, Slice, bytes, str]:
        """Key, image, the bytes of the text or label and the column they are from. Raises BadSample."""
        shard = int(np.searchsorted(self.starts, number, "right")) - 1
        path = str(self.paths[shard])
        key = f"{self.paths[shard].name}#{number - int(self.starts[shard])}"
        image_at, image_size, text_at, text_size, column = (int(value) for value in self.members[number])
        return key, Slice(path, image_at, image_size), Slice(path, text_at, text_size).read(), COLUMNS[column]

    def _chosen(self, path: Path, found: ShardIndex, bad: BadSamples) -> NDArray[np.int64]:
        """(num, 5): offset and size of the image, offset and size of the text or label, its column."""
        members = found.members
        rows = np.concatenate((members[:, :2], np.zeros((len(members), 3), np.int64)), axis=1)
        rows[:, 4] = -1
        for name in reversed(self.columns):
            column = COLUMNS.index(name)
            there = members[:, 2 * column + 1] > 0
            rows[there, 2:4] = members[there, 2 * column : 2 * column + 2]
            rows[there, 4] = column
        empty = rows[:, 4] < 0
        if empty.any():
            bad.add(f"no or empty {self.columns[0]}", f"{path}#{int(np.argmax(empty))}", int(empty.sum()))
        return rows[~empty]

    def _count(self, path: Path, found: ShardIndex, typical: int, bad: BadSamples) -> None:
        reasons = Counter(problem.reason for problem in found.problems)
        for problem in found.problems:
            if problem.reason in TRUNCATED:
                whole = _expected(path) or max(typical, len(found.members) + 1)
                bad.add(problem.reason, problem.example, max(1, whole - len(found.members)))
            else:
                bad.add(*problem)
        expected = _expected(path)
        if expected is not None and not reasons and len(found.members) < expected:
            bad.add("samples missing from a shard", str(path), expected - len(found.members))


class PairShards(Shards):
    """``NAME.jpg`` with the caption in ``NAME.txt``, else under ``caption`` in ``NAME.json``."""

    kind: ClassVar[Kind] = "pairs"
    columns = ("txt", "json")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return _has(path, "txt", "json") and not _has(path, "cls")

    def __getitem__(self, number: int) -> Pair:
        key, image, data, column = self.place(number)
        try:
            text = data.decode() if column == "txt" else str(json.loads(data).get("caption") or "")
        except (ValueError, AttributeError):
            raise BadSample("unreadable caption", key) from None
        if not text.strip():
            raise BadSample("empty caption", key)
        return Pair(key, image, text.strip(), number)


class ClassShards(Shards):
    """``NAME.jpg`` with the class number in ``NAME.cls``, as webdataset's ImageNet has them."""

    kind: ClassVar[Kind] = "labels"
    columns = ("cls",)

    def __init__(self, path: Path, split: str, bad: BadSamples, *, num_classes: int = 1000) -> None:
        super().__init__(path, split, bad)
        self.class_names = tuple(str(number) for number in range(num_classes))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return _has(path, "cls")

    def __getitem__(self, number: int) -> Labelled:
        key, image, data, _ = self.place(number)
        try:
            label = int(data)
        except ValueError:
            raise BadSample("label that is not a number", key) from None
        if not 0 <= label < len(self.class_names):
            raise BadSample(f"label outside 0 ... {len(self.class_names) - 1}", key)
        return Labelled(key, image, label)


def _shards(path: Path, split: str) -> tuple[list[Path], list[Path]]:
    """The shards that are there and those that should be. Raises DataError if there is none."""
    if _RANGE.search(str(path)):
        wanted = _expanded(str(path))
        found = [file for file in wanted if file.is_file()]
    elif path.is_file():
        wanted = found = [path] if path.suffix == ".tar" else []
    else:
        inside = [path / split, path] if split else [path]
        found = next((tars for tars in (sorted(folder.glob("*.tar")) for folder in inside) if tars), [])
        numbers = {int(file.stem): len(file.stem) for file in found if file.stem.isdigit()}
        named = {int(file.name.split("_")[0]) for folder in inside for file in folder.glob("[0-9]*_stats.json")}
        everything = {*numbers, *named}
        wanted = list(found)
        if found and numbers and len(numbers) == len(found):
            width = max(numbers.values())
            wanted = [found[0].with_name(f"{n:0{width}d}.tar") for n in range(min(everything), max(everything) + 1)]
    if not found:
        raise DataError("no tar shards", where=str(path))
    there = set(found)
    return found, [file for file in wanted if file not in there]


def _expanded(pattern: str) -> list[Path]:
    match = _RANGE.search(pattern)
    if match is None:
        return [Path(pattern)]
    first, last = match.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [path for n in numbers for path in _expanded(pattern[: match.start()] + n + pattern[match.end() :])]


def _indices(paths: list[Path]) -> list[ShardIndex]:
    """Every shard's index; ranks that start together share the work of making them."""
    mine = paths[ranks.rank() :: ranks.world_size()]
    with console.progress("indexing shards", len(mine), "shards") as advance:
        for path in mine:
            index(path)
            advance(1)
    ranks.barrier()
    return [index(path) for path in paths]


def _expected(path: Path) -> int | None:
    """How many samples img2dataset says that it wrote."""
    try:
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text(encoding="utf-8"))
        return int(stats["successes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has(path: Path, *columns: str) -> bool:
    """Whether the first few members of a shard there have one of these endings."""
    import tarfile

    try:
        first = _shards(path, "train")[0][0]
    except DataError:
        return False
    try:
        with tarfile.open(first, "r:") as tar:
            for _ in range(64):
                member = tar.next()
                if member is None:
                    break
                if member.name.rpartition("/")[2].partition(".")[2].lower() in columns:
                    return True
    except (tarfile.TarError, OSError):
        return "txt" in columns  # broken from the start: let the reader count it
    return False
