"""The small files beside weights: read only where they are files, and carried along only where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmerge_cli.checkpoint import door
from vlmerge_cli.errors import CheckpointError
from vlmerge_cli.outputs.replacing import in_hub_cache

#: What goes along with weights: configuration, vocabulary, templates of prompts.
CARRIED = {".json", ".txt", ".model", ".jinja", ".yaml"}
MAX_CARRIED_BYTES = 64_000_000


def json_object(path: Path) -> dict[str, Any]:
    """Raises CheckpointError for what is no file, no JSON or no object."""
    if not path.is_file():
        raise door.not_a_file(path)
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise CheckpointError("not a JSON object", where=str(path))
    return found


def companions(folder: Path) -> dict[str, bytes]:
    """Name -> content of what goes along with a folder's weights.

    Left out: indices, which belong to its shards; an adapter's files, whose weights are not merged; what is no file,
    or a link to a file elsewhere (those of a Hub cache lead to its blobs).
    """
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if _goes_along(path)}


def adapter_in(folder: Path) -> str:
    """A file of an adapter (LoRA) that lies beside the weights; empty without."""
    return next((name for name in door.ADAPTERS if (folder / name).exists()), "")


def _goes_along(path: Path) -> bool:
    named = path.suffix in CARRIED and not path.name.endswith(".index.json") and path.name not in door.ADAPTERS
    if not named or not path.is_file() or path.stat().st_size > MAX_CARRIED_BYTES:
        return False
    at, folder = path.resolve(), path.parent.resolve()
    return folder in at.parents or (in_hub_cache(folder) and in_hub_cache(at))
