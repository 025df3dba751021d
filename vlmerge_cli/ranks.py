"""What torchrun tells a process about its peers, and collectives that do nothing when it is alone."""

from __future__ import annotations

import os
from typing import Any

from vlmerge_cli.errors import VlmergeError

PEER_ENDED, ITS_MESSAGE = "another process of this run has ended", "its own message says why"
#: How gloo and NCCL say that.
CONNECTION = r"(?i)gloo/transport|Connection (closed|reset|refused)|NCCL.*(remote|Connection)"
#: What torchrun alone sets: the other names may be left over from a cluster or a notebook's image.
STARTED = "TORCHELASTIC_RUN_ID"


def is_left_over() -> bool:
    """Whether the environment speaks of peers, and torchrun did not start this process: it is alone."""
    return STARTED not in os.environ and os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def peer_ended(error: Exception) -> str:
    """What is said where an error of a collective in the middle of training means that a peer has gone; else empty."""
    import re

    lost = world_size() > 1 and isinstance(error, RuntimeError) and re.search(CONNECTION, str(error))
    return f"{PEER_ENDED}\n  {ITS_MESSAGE}" if lost else ""


def _told(name: str, alone: int) -> int:
    return int(os.environ[name]) if STARTED in os.environ and name in os.environ else alone


def rank() -> int:
    """This process among all; 0 when it is alone."""
    return _told("RANK", 0)


def world_size() -> int:
    """The number of processes."""
    return _told("WORLD_SIZE", 1)


def local_rank() -> int:
    """This process among those of its machine."""
    return _told("LOCAL_RANK", 0)


def local_world_size() -> int:
    """The number of processes on this machine."""
    return _told("LOCAL_WORLD_SIZE", 1)


def is_main() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


def start() -> None:
    """Join the process group that torchrun describes: gloo, and NCCL for CUDA tensors. Alone: nothing."""
    if world_size() == 1:
        return
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leave the process group, if there is one."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    try:
        dist.all_gather_object(values, value)
    except RuntimeError:  # what the backend says when a connection ends
        raise VlmergeError(PEER_ENDED, fix=ITS_MESSAGE) from None
    return values


def sum_at_main(values: Any) -> Any:
    """Sum of a numpy float64 array over the ranks, added in their order, on rank 0; elsewhere None."""
    if world_size() == 1:
        return values
    import torch
    import torch.distributed as dist

    own = torch.tensor(values)  # on the CPU, where gloo is
    parts = [torch.empty_like(own) for _ in range(world_size())] if is_main() else None
    dist.gather(own, parts, dst=0)
    if parts is None:
        return None
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total.numpy()
