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
            return file.read(HEAD_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def read_json(path: Path) -> Any:
    """Raises DataError for a file that is not there, is cut off or is not JSON; a byte order mark is skipped."""
    if path.exists() and not path.is_file():
        raise DataError("not a file", where=str(path))
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=str(path), fix="is the download complete?") from None


def rows(document: Any, key: str, path: Path) -> list[Any]:
    """The list under ``key``. Raises DataError if there is none."""
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise DataError(f"there is no list '{key}'", where=str(path))
    return found


def field(row: Any, name: str, number: int, path: Path) -> Any:
    """A field that row ``number`` of a file must have. Raises DataError with all three."""
    if not isinstance(row, dict):
        raise DataError(f"row {number} is {type(row).__name__}, not an object", where=str(path))
    if row.get(name) is None:
        fix = f"it has: {', '.join(sorted(map(str, row))[:8]) or 'nothing'}"
        raise DataError(f"row {number} has no '{name}'", where=str(path), fix=fix)
    return row[name]


def whole_number(row: Any, name: str, number: int, path: Path) -> int:
    """An id, which some tools write as text. Raises DataError with file, row and field."""
    found = field(row, name, number, path)
    if isinstance(found, str) and found.strip().isdecimal() and len(found) < 20:
        return int(found)
    if isinstance(found, bool) or not isinstance(found, int | float) or found != int(found) or found < 0:
        raise DataError(f"row {number}: '{name}' is {found!r:.80}, not a whole number", where=str(path))
    return int(found)


def texts(found: Any) -> list[str | None]:
    """Captions or answers as files have them: a text, or a list of texts or of objects that hold one.

    None stands for what holds no text.
    """
    listed = found if isinstance(found, list) else [] if found is None or found == {} else [found]
    return [_text(one) for one in listed]


def _text(one: Any) -> str | None:
    if isinstance(one, dict):
        one = next((one[name] for name in ("raw", "caption", "answer") if one.get(name) is not None), None)
    if isinstance(one, bool) or not isinstance(one, str | int | float):
        return None
    return str(one).strip() or None


def chosen(table: dict[str, str], split: str, where: Path) -> str:
    """What a split is called in this format. Raises DataError with the nearest name."""
    if split not in table:
        raise DataError(f"no split '{split}'", where=str(where), fix=nearest(split, table))
    return table[split]
