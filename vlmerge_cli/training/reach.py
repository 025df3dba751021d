"""Which parameters a loss depends on; the others are left alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.masking import IGNORE
from vlmerge_cli.data.samples import Kind
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.weights.vlmodel import VLModel


def freeze_unreached(model: VLModel, loss: Callable[[Batch], Tensor], kind: Kind) -> int:
    """Take gradients from parameters that the loss does not reach (experts that never run); how many.

    Found by the backward pass of two made-up samples. Such parameters then have no optimiser state, are not waited
    for by DDP, and stay in the checkpoint as they came.
    """
    training = model.training
    first = next(model.parameters())
    batch = made_up(model.config, kind).to(first.device)
    batch = batch.double() if first.dtype == torch.float64 else batch
    model.eval()
    loss(batch).backward()
    model.train(training)
    unreached = [parameter for parameter in model.parameters() if parameter.grad is None]
    for parameter in unreached:
        parameter.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    return sum(parameter.numel() for parameter in unreached)


def made_up(config: ModelConfig, kind: Kind) -> Batch:
    """Two empty samples of a kind, every field filled."""
    image = torch.zeros(2, 3, config.image_px, config.image_px)
    target = {
        "questions": torch.zeros(2, config.num_answers),
        "masks": torch.zeros(2, config.image_px, config.image_px, dtype=torch.int64),
    }.get(kind, torch.zeros(2, dtype=torch.int64))
    text = torch.zeros(2, config.max_text_tokens, dtype=torch.int64)
    text[1, 1] = 1  # captions that differ, so that each may be the other image's wrong one
    labels = torch.full_like(text, IGNORE)
    labels[:, 1] = text[:, 1]
    return Batch(
        keys=("", ""), row=torch.arange(2), index=torch.arange(2), valid=torch.ones(2, dtype=torch.bool), image=image,
        image2=image, image_id=torch.arange(2), text=text, text_mask=torch.ones_like(text, dtype=torch.bool),
        masked_text=text, masked_labels=labels, target=target,
    )  # fmt: skip
