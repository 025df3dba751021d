"""Checkpoints from the Hugging Face Hub, through huggingface_hub: its cache, tokens and offline mode."""

from __future__ import annotations

import re
from pathlib import Path

from vlmerge_cli.errors import CheckpointError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]


def is_repository(name: str) -> bool:
    """Whether a name that is no path reads as ``org/name`` or ``org/name@revision``."""
    return _REPOSITORY.fullmatch(name) is not None and not name.endswith((".safetensors", ".json"))


def is_offline() -> bool:
    """Whether the cache alone is used."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


def download(name: str) -> Path:
    """Folder of the repository's files in the local cache, fetched when needed.

    ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean everywhere.
    Raises CheckpointError when it cannot be had, with the reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except GatedRepoError:
        raise CheckpointError(f"{repository} asks for permission", fix="request it, then set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{repository} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        fix = "check the name, or set HF_TOKEN for a private one"
        raise CheckpointError(f"no such file, folder or Hub repository: {repository}", fix=fix) from None
    except LocalEntryNotFoundError:
        fix = "check the name and the network; HF_HUB_OFFLINE=1 uses the cache alone"
        raise CheckpointError(f"no such file or folder, and not in the Hub's cache: {name}", fix=fix) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot fetch {name}: {str(error).splitlines()[0]}") from None
