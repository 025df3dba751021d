"""AdamW, and which parameters it lets decay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from vlmerge_cli.training.pretrain_config import Optimizer as Settings


def undecayed(module: nn.Module) -> set[str]:
    """Names of the parameters without weight decay: biases, norms and the relative position bias table.

    The published code decides by names that its per-expert norms and those of its heads do not match, so they decay
    there; here a norm is what is of that class, whoever owns it.
    """
    norms = {
        f"{name}.{own}".removeprefix(".")
        for name, part in module.named_modules()
        if isinstance(part, nn.LayerNorm)
        for own, _ in part.named_parameters(recurse=False)
    }
    others = {name for name, _ in module.named_parameters() if name.endswith("bias") or "bias_table" in name}
    return norms | others


def make_optimizer(
    module: nn.Module,
    settings: Settings,
    multiplier: Callable[[str], float] = lambda _: 1.0,
) -> Optimizer:
    """AdamW (decoupled decay, bias correction) over those that decay and those that do not.

    ``multiplier`` of a parameter's name scales its learning rate.
    """
    still = undecayed(module)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:  # scalars apart: FSDP2 leaves them plain, and a group is of one kind
            kind = (multiplier(name), name not in still, parameter.ndim == 0)
            groups.setdefault(kind, []).append(parameter)
    on_gpu = all(p.device.type == "cuda" for group in groups.values() for p in group)
    return AdamW(
        [
            {"params": group, "weight_decay": settings.weight_decay if decaying else 0.0, "multiplier": factor}
            for (factor, decaying, _), group in groups.items()
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=on_gpu or None,
    )


_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.")
_INPUTS = (
    "transformer.patch_embed",
    "transformer.cls_token",
    "transformer.pos_embed",
    "text_embeddings.",
    "token_type",
)


def multiplier_of(
    name: str, num_layers: int, layer_decay: float, heads: Sequence[str], head_multiplier: float
) -> float:
    """What a parameter's learning rate is multiplied with.

    layer_decay^(num_layers - i) for block i, layer_decay^(num_layers + 1) for what goes into the first one, 1 for
    what comes after the last, ``head_multiplier`` for the modules named ``heads``. Source: BEiT's fine-tuning code;
    the head group is that of the published VQA configuration.
    """
    if any(f"{head}." in name for head in heads):
        return head_multiplier
    block = _BLOCK.search(name)
    if block:
        return layer_decay ** (num_layers - int(block[1]))
    return layer_decay ** (num_layers + 1) if any(part in name for part in _INPUTS) else 1.0


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale all gradients so that their common norm is at most ``largest``; the norm before.

    As torch.nn.utils.clip_grad_norm_, but sharded and plain gradients may come together.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = torch.linalg.vector_norm(torch.stack(whole))
    factor = float((largest / (total + 1e-6)).clamp(max=1.0))
    for gradient in gradients:
        gradient.mul_(factor)
    return total  # type: ignore[no-any-return]
