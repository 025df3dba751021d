"""Result rows (scores, distances, run facts) as JSON lines; every table and figure is made from them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmerge_cli.errors import DataError

#: Places that are numbers.
NUMBERS = ("step", "seed")


@dataclass(frozen=True)
class Record:
    """One row: ``kind`` is what was measured, ``at`` where (model, layer, step), ``values`` the numbers."""

    kind: str
    at: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)


def append(path: Path, record: Record) -> None:
    """Add one row in a single write, so that a killed run loses at most the row it was writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(path)
    data = (record.to_json() + "\n").encode()
    try:
        with open(path, "ab", buffering=0) as file:
            done = file.write(data)
            if done < len(data):  # the disk is full: let the system say so
                file.truncate(file.tell() - done)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}", fix="free some space, or write elsewhere") from None


def read(path: Path, kind: str | None = None) -> Iterator[Record]:
    """The rows of ``path`` in order; a last line without its newline was never finished and is left out.

    Raises DataError for a finished line that is not a record.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise DataError("not a file", where=str(path))
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = _record(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise DataError(f"line {number} is not a record: {error}", where=str(path)) from None
            if kind is None or record.kind == kind:
                yield record


def _record(found: Any) -> Record:
    """Raises TypeError and ValueError for what is none: it may come from anywhere."""
    if not isinstance(found, dict):
        raise TypeError("not a JSON object")
    record = Record(**found)
    if not isinstance(record.kind, str):
        raise TypeError(f"its kind is {type(record.kind).__name__}")
    for name in ("at", "values"):
        if not isinstance(getattr(record, name), dict):
            raise TypeError(f"'{name}' is {type(getattr(record, name)).__name__}, not a JSON object")
    for name in NUMBERS:
        value = record.at.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{name} is {value!r:.80}, not a number")
    try:
        record.to_json().encode()
    except UnicodeEncodeError:
        raise ValueError("a text that is not valid Unicode") from None
    return record


def _drop_torn_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)
