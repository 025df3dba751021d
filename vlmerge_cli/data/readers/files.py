"""What several readers do: finding their files, reading JSON, and saying what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmerge_cli.errors import DataError, nearest

HEAD_BYTES = 1 << 16


def folders(root: Path) -> Iterator[Path]:
    """A folder and those in it, sorted: where archives that people unpack end up."""
    if root.is_dir():
        yield root
        yield from sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find(root: Path, pattern: str) -> Path | None:
    """The first file of that name pattern in a folder or one level below."""
    for folder in folders(root):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                return path
    return None


def first_with(roots: list[Path], relative: str) -> Path:
    """The first of ``roots`` below which ``relative`` exists, else the first."""
    return next((root for root in roots if (root / relative).exists()), roots[0])


def head(path: Path) -> str:
    """The first 64 KiB, to look at before a large file is parsed."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def read_json(path: Path) -> Any:
    """Raises DataError for a file that is not there, is cut off or is not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path), fix="is the download complete?") from None


def rows(document: Any, key: str, path: Path) -> list[Any]:
    """The list under ``key``. Raises DataError if there is none."""
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise DataError(f"there is no list '{key}'", where=str(path))
    return found


def chosen(table: dict[str, str], split: str, where: Path) -> str:
    """What a split is called in this format. Raises DataError with the nearest name."""
    if split not in table:
        raise DataError(f"no split '{split}'", where=str(where), fix=nearest(split, table))
    return table[split]
