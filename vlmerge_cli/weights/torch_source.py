"""A checkpoint of any kind as torch tensors that are read when they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vlmerge_cli.checkpoint.legacy import is_legacy, open_legacy
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class Source:
    """Named tensors, the name the user gave, where they lie, and the configuration and metadata that came along."""

    name: str
    tensors: Mapping[str, Tensor]
    path: Path
    config: dict[str, Any] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def open_source(name: str | Path) -> Source:
    """Safetensors (a file, a folder, shards, the Hub) or a PyTorch file; raises CheckpointError.

    The files stay mapped while their tensors live; nothing is copied.
    """
    path = Path(name)
    if is_legacy(path):
        return Source(str(name), open_legacy(path).tensors, path)
    with open_checkpoint(name) as checkpoint:
        return source_of(checkpoint)


def source_of(checkpoint: Checkpoint) -> Source:
    """The tensors of an open checkpoint; they outlive it."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in checkpoint.shards:
        with safe_open(shard.path, framework="pt") as file:
            tensors |= {key: file.get_tensor(key) for key in shard.header.tensors}
    return Source(checkpoint.name, tensors, checkpoint.path, checkpoint.config(), checkpoint.about())
