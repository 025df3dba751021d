"""Where the members of a tar shard lie, read once and kept: any sample can be had without streaming."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.data.bad import Problem
from vlmerge_cli.data.images import ENDINGS
from vlmerge_cli.outputs.whole import cache_folder, write_whole

VERSION = 2
COLUMNS = ("image", "txt", "json", "cls")  # each as offset and size in bytes; a size of -1: there is none
BLOCK_BYTES = 512


@dataclass(frozen=True)
class ShardIndex:
    """``members`` (num_samples, 8) int64: offset and size of each of COLUMNS; and what is wrong with the
    shard.
    """

    members: NDArray[np.int64]
    problems: tuple[Problem, ...]


def index(path: Path) -> ShardIndex:
    """The index of one shard, from the cache folder if the file is as it was then."""
    facts = path.stat()
    name = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\0{VERSION}"
    kept = cache_folder() / "tar" / f"{blake2b(name.encode(), digest_size=16).hexdigest()}.npz"
    try:
        with np.load(kept) as stored:
            problems = tuple(Problem(*row) for row in json.loads(str(stored["problems"])))
            return ShardIndex(stored["members"], problems)
    except (OSError, ValueError, KeyError, BadZipFile):
        pass  # not there yet, or torn
    made = _read(path)
    buffer = io.BytesIO()
    np.savez(buffer, members=made.members, problems=np.array(json.dumps(made.problems)))
    write_whole(kept, buffer.getvalue())
    return made


def _read(path: Path) -> ShardIndex:
    """Walk the headers; members of a sample share their folder and their name up to the first dot.

    They need not follow each other; a name that comes again begins another sample. Hidden files, which macOS puts
    beside others, are passed over.
    """
    if problem := _compressed(path):
        return ShardIndex(np.zeros((0, 2 * len(COLUMNS)), np.int64), (problem,))
    size = path.stat().st_size
    samples: list[dict[str, tuple[int, int]]] = []
    endings: list[set[str]] = []
    problems: list[Problem] = []
    place_of: dict[tuple[str, str], int] = {}  # the newest sample of a name
    place = -1
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                place = place_of.get((folder, stem), -1)
                if place < 0 or ending in endings[place]:
                    place = place_of[folder, stem] = len(samples)
                    samples.append({})
                    endings.append(set())
                column = "image" if f".{ending.lower()}" in ENDINGS else ending.lower()
                samples[place].setdefault(column, (member.offset_data, member.size))
                endings[place].add(ending)
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            end = tar.offset
        with open(path, "rb") as file:
            file.seek(end)
            if file.read(BLOCK_BYTES).strip(b"\0"):
                problems.append(Problem("corrupt tar", f"{path} at byte {end}"))
    except (tarfile.TarError, OSError) as error:
        problems.append(Problem("truncated tar", f"{path}: {error}"))
    half = samples[place] if problems and samples else None  # a truncated tar has one, counted with it
    rows = []
    for found, names in zip(samples, endings, strict=True):
        if "image" in found and not found.keys().isdisjoint(("txt", "json", "cls")):
            rows.append([number for column in COLUMNS for number in found.get(column, (0, -1))])
        elif found is not half:
            problems.append(Problem("sample with other keys", f"{path}: {' '.join(sorted(names))}"))
    return ShardIndex(np.array(rows, np.int64).reshape(-1, 2 * len(COLUMNS)), tuple(problems))


def _compressed(path: Path) -> Problem | None:
    """A shard whose members have no place of their own, as it is compressed as a whole."""
    with open(path, "rb") as file:
        head = file.read(6)
    for start, tool in ((b"\x1f\x8b", "gunzip"), (b"\xfd7zXZ", "unxz"), (b"(\xb5/\xfd", "unzstd"), (b"BZh", "bunzip2")):
        if head.startswith(start):
            return Problem(f"compressed tar, to be unpacked with {tool}", str(path))
    return None
