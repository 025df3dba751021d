"""What is done to single-device code so that it trains on many: applied from outside, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn

from vlmerge_cli import ranks
from vlmerge_cli.weights.vlmodel import VLModel


def parallelize(step: nn.Module, model: VLModel, *, parallel: str, recompute: bool, compiled: bool) -> nn.Module:
    """``step`` (which holds ``model``) ready to be called: recomputation, compilation, then FSDP2 or DDP.

    FSDP2 shards every block and the rest; DDP copies. Alone, neither is applied. Both average gradients over
    ranks, which is what the losses expect.
    """
    if recompute:
        model.recompute_activations()
    if compiled:
        for block in model.transformer.blocks:
            block.compile()
    if ranks.world_size() == 1:
        return step
    if parallel == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for block in model.transformer.blocks:
            fully_shard(block)
        fully_shard(step, ignored_params=set(_scalars(step)))
        return step
    device = next(step.parameters()).device
    return nn.parallel.DistributedDataParallel(
        step,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def _scalars(step: nn.Module) -> list[nn.Parameter]:
    """Parameters that FSDP2 cannot shard."""
    return [parameter for parameter in step.parameters() if parameter.ndim == 0]


def finish_gradients(step: Any) -> None:
    """After the last backward pass: average what FSDP2 left alone."""
    if ranks.world_size() > 1 and hasattr(step, "set_requires_gradient_sync"):
        for parameter in _scalars(step):
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= ranks.world_size()


@contextmanager
def without_sync(step: Any, last: bool) -> Iterator[None]:
    """For all but the last part of an accumulated step: keep gradients local."""
    if hasattr(step, "set_requires_gradient_sync"):  # FSDP2
        step.set_requires_gradient_sync(last)
        yield
    elif hasattr(step, "no_sync") and not last:  # DDP
        with step.no_sync():
            yield
    else:
        yield


def full_state_dict(model: nn.Module) -> dict[str, Any]:
    """All of a model's tensors on the CPU of rank 0, whatever shards them (empty on other ranks)."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    many = ranks.world_size() > 1
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=many))
