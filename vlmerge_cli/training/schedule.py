"""The learning rate over a phase: linear warm-up, linear or cosine decay to 0."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def factor(step: int, num_steps: int, warmup: float, decay: str = "linear") -> float:
    """Of step 0 ... num_steps - 1: (step + 1) / w up to w = warmup · num_steps, then down to 0 after the last:
    linear, or half a cosine (Loshchilov and Hutter, 2017).

    >>> [factor(step, 4, 0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = round(warmup * num_steps)
    if step < rising:
        return (step + 1) / rising
    left = (num_steps - step) / max(1, num_steps - rising)
    return left if decay == "linear" else (1 - math.cos(math.pi * left)) / 2


def set_rate(
    optimizer: Optimizer, peak: float, step: int, num_steps: int, warmup: float, decay: str = "linear"
) -> float:
    """Give every group its rate for this step; a group's ``multiplier`` (default 1) scales it."""
    rate = peak * factor(step, num_steps, warmup, decay)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("multiplier", 1.0)
    return rate
