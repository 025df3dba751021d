"""The data that a checkpoint was made with: how it is recorded, and found again from anywhere.

``data`` in a checkpoint's metadata is ``--data`` as it was given; ``data_at`` the way from the checkpoint to each
source that is on disk (empty for the built-in data set), so that both can move together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmerge_cli.data.source_spec import Spec, parse

FAR = 4  # folders above a checkpoint in which its data is looked for


def recorded(about: Mapping[str, Any]) -> tuple[str, ...]:
    """``--data`` as it was given; empty where a checkpoint says nothing of it."""
    found = about.get("data", [])
    found = [found] if isinstance(found, str) else found
    return tuple(found) if isinstance(found, list) and all(isinstance(text, str) for text in found) else ()


def noted(data: Sequence[str], place: Path) -> dict[str, Any]:
    """What the metadata of a checkpoint at ``place`` (a folder or file) says of its data."""
    ways = [_way(parse(text), place) for text in data]
    return {"data": list(data), **({"data_at": ways} if any(ways) else {})}


def found_again(about: Mapping[str, Any], place: Path) -> tuple[str, ...]:
    """The recorded data as ``--data`` that can be read now, from wherever the command was started.

    Looked for where the checkpoint says it is, then under its own name in the folders above the checkpoint, last in
    the current one; what is found nowhere stays as it was given, for whoever reads it to complain of.
    """
    data, ways = recorded(about), about.get("data_at")
    ways = ways if isinstance(ways, list) and len(ways) == len(data) else [""] * len(data)
    return tuple(_found(text, str(way), _folder(place)) for text, way in zip(data, ways, strict=True))


def moved(about: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, written at another place."""
    if not recorded(about) or "data_at" not in about:
        return dict(about)
    ways = [_way(parse(text), new) for text in found_again(about, old)]
    return {**about, "data_at": ways}


def _way(spec: Spec, place: Path) -> str:
    if spec.is_built_in:
        return ""
    return os.path.relpath(Path(spec.path).absolute(), _folder(place).absolute())


def _folder(place: Path) -> Path:
    return place.parent if place.suffix == ".safetensors" or place.is_file() else place


def _found(text: str, way: str, folder: Path) -> str:
    spec = parse(text)
    if spec.is_built_in or (Path(spec.path).is_absolute() and Path(spec.path).exists()):
        return text
    for path in _candidates(spec.path, way, folder.absolute()):
        if path.exists() or ("{" in path.name and path.parent.exists()):
            return str(replace(spec, path=str(path)))
    return text


def _candidates(path: str, way: str, folder: Path) -> Iterator[Path]:
    above = [folder, *folder.parents][:FAR]
    if way:
        yield from (Path(os.path.normpath(one / way)) for one in above)
    given = Path(path)
    parts = [part for part in given.parts if part not in ("..", ".", given.anchor)]
    for first in range(len(parts)):
        yield from (one.joinpath(*parts[first:]) for one in above)
    yield given.absolute()
