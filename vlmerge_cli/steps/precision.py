"""What a model computes in, in training and evaluation: one place for all tasks.

``float32``; ``bfloat16`` and ``float16`` by autocast, the weights and what heads say staying float32
(``model.heads.widened``); ``float64`` for model and images alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.errors import UsageError, nearest

PRECISIONS = ("float32", "bfloat16", "float16", "float64")
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

Module = TypeVar("Module", bound=nn.Module)


def check(precision: str) -> None:
    """Raises UsageError for a name that is none."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}", fix=nearest(precision, PRECISIONS))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The block in which forward passes run."""
    kind = _HALVES.get(precision)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


def cast(module: Module, precision: str) -> Module:
    """A module whose weights are as wide as the precision says."""
    return module.double() if precision == "float64" else module


def typed(batches: Iterable[Batch], precision: str) -> Iterator[Batch]:
    """Batches whose images are as wide as the weights."""
    for batch in batches:
        yield batch.double() if precision == "float64" else batch
