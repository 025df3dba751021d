"""What a kept result depends on, by content: two inputs of one name are two inputs, and one moved is still itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.source_spec import Spec, parse

EDGE_BYTES = 4096
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # known by name and size: there may be millions


def of_checkpoint(name: str) -> str:
    """Its fingerprint. Raises what opening raises."""
    with open_checkpoint(name) as opened:
        return opened.fingerprint()


def of_data(texts: Sequence[str], shapes: ShapesOptions | None = None) -> str:
    """Of ``--data``: sha256 over each source's weight and its files.

    A file counts by its way below the source, its size and, unless it is a picture, its first and last 4 KiB. The
    built-in data set is made anew from its options (``shapes``), so it counts by its name and these.
    """
    digest = hashlib.sha256()
    options = (shapes or ShapesOptions()).manifest()
    for spec in map(parse, texts):
        digest.update(f"{spec.weight}\n".encode())
        for line in [f"{spec.path} {options}".encode()] if spec.is_built_in else _lines(spec):
            digest.update(line + b"\n")
    return f"sha256:{digest.hexdigest()}"


def _lines(spec: Spec) -> Iterator[bytes]:
    path = Path(spec.path)
    if path.is_file():
        yield _line(path, path.name)
        return
    root = path if path.is_dir() else path.parent  # a pattern of shards: all that lies beside them
    if root is not path:
        yield path.name.encode()
    for folder, below, files in os.walk(root, followlinks=True):
        below.sort()
        for name in sorted(files):
            yield _line(Path(folder, name), os.path.relpath(Path(folder, name), root))


def _line(path: Path, name: str) -> bytes:
    try:
        size = path.stat().st_size
        edges = b"" if path.suffix.lower() in PICTURES else _edges(path, size)
    except OSError:  # whoever reads the data says what is wrong with it
        return name.encode(errors="surrogateescape") + b" unreadable"
    return f"{name} {size} ".encode(errors="surrogateescape") + hashlib.sha256(edges).digest()


def _edges(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        first = file.read(EDGE_BYTES)
        file.seek(max(0, size - EDGE_BYTES))
        return first + file.read(EDGE_BYTES)
