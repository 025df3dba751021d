"""AdamW, and which parameters it lets decay."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Optimizer

from vlmerge_cli.training.config import Optimizer as Settings


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter gets weight decay: all but biases, norms and the relative position bias table.

    The published code decides by names that its per-expert norms do not match, so those decay there; here a
    norm is a norm whoever owns it, and no expert is treated unlike another.
    """
    if name.endswith("bias") or "bias_table" in name:
        return False
    return not (parameter.ndim == 1 and "norm" in name.lower())


def make_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], settings: Settings) -> Optimizer:
    """AdamW (decoupled decay, bias correction) over two groups."""
    named = [(name, p) for name, p in parameters if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    on_gpu = all(p.device.type == "cuda" for _, p in named)
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=on_gpu or None,
    )
