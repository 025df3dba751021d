"""A module that every expert owns, or that all share. Whose tokens are whose is an argument, never state."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

#: The experts of a sequence and how many of its tokens each has, in order: (("l", 40), ("v", 197)).
Parts = tuple[tuple[str, int], ...]


def experts(make: Callable[[], nn.Module], names: Iterable[str], own: bool) -> nn.Module:
    """One module for each expert (keys ``mlp.v.fc1.weight``), or one for all (``mlp.fc1.weight``)."""
    return nn.ModuleDict({name: make() for name in names}) if own else make()


def of(module: nn.Module, expert: str) -> nn.Module:
    """The module that serves ``expert``."""
    return module[expert] if isinstance(module, nn.ModuleDict) else module


def by_part(module: nn.Module, x: Tensor, parts: Parts) -> Tensor:
    """A tokenwise module on (B, T, width): each expert's on its own tokens, a shared one on all at once."""
    if len(parts) == 1 or not isinstance(module, nn.ModuleDict):
        return of(module, parts[0][0])(x)  # type: ignore[no-any-return]
    pieces = torch.split(x, [num_tokens for _, num_tokens in parts], dim=1)
    done = [module[expert](piece) for (expert, _), piece in zip(parts, pieces, strict=True)]
    return torch.cat(done, dim=1)
