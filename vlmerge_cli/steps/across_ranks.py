"""Tensors of all ranks side by side, with gradients; nothing happens when there is one rank."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from vlmerge_cli import ranks
from vlmerge_cli.model.hidden import State

Gradients = Literal["all", "local"]


class _Gather(torch.autograd.Function):
    """all_gather whose backward pass adds up what every rank's loss says about this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(ranks.world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.num_rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        start = ranks.rank() * ctx.num_rows
        return total[start : start + ctx.num_rows]


def gather(x: Tensor, gradients: Gradients = "all") -> Tensor:
    """(B, ...) of every rank as (ranks · B, ...), in rank order.

    ``all`` lets gradients flow back to the rank a row came from; ``local`` only through this rank's rows, as
    the published code has it. Averaged over ranks (as DDP and FSDP do), ``all`` is the gradient of one process
    with the whole batch.
    """
    if ranks.world_size() == 1:
        return x
    if gradients == "all" and x.requires_grad:
        return _Gather.apply(x)  # type: ignore[no-any-return,no-untyped-call]
    parts = [torch.empty_like(x) for _ in range(ranks.world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    parts[ranks.rank()] = x
    return torch.cat(parts)


def gather_state(state: State) -> State:
    """The states of every rank's samples, with gradients."""
    mask = None if state.mask is None else gather(state.mask)
    embedded = None if state.embedded is None else gather(state.embedded)
    return State(state.expert, gather(state.hidden), mask, embedded)


def total(x: Tensor) -> Tensor:
    """Sum over ranks, without gradients."""
    x = x.detach().clone()
    if ranks.world_size() > 1:
        dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """Mean over ranks, without gradients."""
    return total(x) / ranks.world_size()


def on_any_rank(said: bool) -> bool:
    """Whether any rank says so, on every rank."""
    return bool(total(torch.tensor(float(said))))
