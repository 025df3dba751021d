"""Checked reading of a layout file's fields; ValueError says which field is wrong and how."""

from __future__ import annotations

from typing import Any

from vlmerge_cli.errors import nearest


def checked_map(entry: Any, at: str, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"{at}: expected a map, found {type(entry).__name__}")
    for name in entry:
        if name not in (*required, *optional):
            raise ValueError(f"{at}: unknown field {name!r}: {nearest(str(name), (*required, *optional))}")
    for name in required:
        if name not in entry:
            raise ValueError(f"{at}: field {name!r} is missing")
    return entry


def map_of_strings(entry: Any, at: str) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ValueError(f"{at}: expected a map of names")
    return {str(key): value for key, value in entry.items()}


def list_of_strings(entry: Any, at: str) -> tuple[str, ...]:
    """A list of names; empty for a field that is left out."""
    if entry is None:
        return ()
    if not isinstance(entry, list) or not all(isinstance(value, str) for value in entry):
        raise ValueError(f"{at}: expected a list of names")
    return tuple(entry)


def template(entry: Any, at: str, *placeholders: str) -> str:
    """A text in which braces hold only the ``placeholders``."""
    if not isinstance(entry, str):
        raise ValueError(f"{at}: expected a text, found {type(entry).__name__}")
    bare = entry
    for name in placeholders:
        bare = bare.replace("{" + name + "}", "")
    if "{" in bare or "}" in bare:
        raise ValueError(f"{at}: {entry!r} may hold only {' and '.join('{' + p + '}' for p in placeholders)}")
    return entry
