"""How far a merged model is from the model it was merged from, on the same inputs: what distilling makes small.

With t what the teacher says and s what the student says,

    L = a (E(text) + E(image)) + j (E(joint text) + E(joint image)) + k Σ KL

E(x) = Σ ‖s - t‖² / Σ ‖t - mean t‖² over the tokens of the global batch: of the hidden states at the end of each
modality's own pass and of the joint pass, so that 1 is what saying the mean would reach. KL is the divergence of the
student's from the teacher's distributions over the rows and over the columns of the batch's similarity tables, for both
ITC paths, each a mean over rows. No label is looked at, and image and text need not belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vlmerge_cli import ranks
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.model.heads import widened
from vlmerge_cli.steps.across_ranks import gather, total
from vlmerge_cli.weights.vlmodel import VLModel


@dataclass(frozen=True)
class Shares:
    """Weights of the parts of the loss; 0 leaves one out."""

    alone: float = 1.0
    joint: float = 20.0
    tables: float = 1.0


class View(NamedTuple):
    """What a model makes of a batch: hidden states (B, T, width), and logits (B, all) of the similarity tables."""

    text: Tensor
    image: Tensor
    joint_text: Tensor | None
    joint_image: Tensor | None
    tables: tuple[Tensor, ...]


def view(model: VLModel, batch: Batch, shares: Shares) -> View:
    """Each pass once; the tables only of a model with the itc head."""
    assert batch.text is not None, "distilling needs texts"
    assert batch.image is not None, "distilling needs images"
    text, image = model.text(batch.text, batch.text_mask), model.image(batch.image)
    alone = model.alone(text), model.alone(image)
    joint = model.fuse(text, image) if shares.joint else None
    tables: list[Tensor] = []
    if shares.tables and "itc" in model.config.heads:
        second = model.alone(text, "vl"), model.alone(image, "vl")
        for (words, pixels), is_second in ((alone, False), (second, True)):
            from_text = model.projected(words, "l", second=is_second)
            from_image = model.projected(pixels, "v", second=is_second)
            tables.append(model.table(from_text, gather(from_image), second=is_second))
            tables.append(model.table(from_image, gather(from_text), second=is_second))
    return View(*alone, None if joint is None else joint.text, None if joint is None else joint.image, tuple(tables))


def distillation(student: VLModel, teacher: VLModel, batch: Batch, shares: Shares) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of this rank, such that the mean over ranks is that of the global batch, and its parts."""
    with torch.no_grad():
        truth = view(teacher, batch, shares)
    found = view(student, batch, shares)
    mask = batch.text_mask
    parts = {
        "text": shares.alone * unexplained(found.text, truth.text, mask),
        "image": shares.alone * unexplained(found.image, truth.image),
    }
    if found.joint_text is not None and truth.joint_text is not None:
        parts["joint_text"] = shares.joint * unexplained(found.joint_text, truth.joint_text, mask)
    if found.joint_image is not None and truth.joint_image is not None:
        parts["joint_image"] = shares.joint * unexplained(found.joint_image, truth.joint_image)
    if found.tables:
        divergences = [divergence(own, right) for own, right in zip(found.tables, truth.tables, strict=True)]
        parts["tables"] = shares.tables * torch.stack(divergences).sum()
    return torch.stack(list(parts.values())).sum(), parts


def unexplained(found: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """E, a scalar: (B, T, width) both, only tokens where ``mask`` (B, T) is True count."""
    found, truth = widened(found), widened(truth)
    counts = torch.ones(truth.shape[:2], device=truth.device) if mask is None else mask.to(truth)
    weights = counts.to(truth)[..., None]  # (B, T, 1)
    mean = total((weights * truth).sum((0, 1))) / total(weights.sum())
    spread = total((weights * (truth - mean) ** 2).sum())
    error = (weights * (found - truth) ** 2).sum() * ranks.world_size()
    return error / spread.clamp(min=torch.finfo(spread.dtype).tiny)


def divergence(found: Tensor, truth: Tensor) -> Tensor:
    """KL(truth ‖ found) of the distributions in the rows of two tables of logits (B, n), the mean over rows."""
    right = torch.log_softmax(widened(truth), dim=1)
    return (right.exp() * (right - torch.log_softmax(widened(found), dim=1))).sum(1).mean()
