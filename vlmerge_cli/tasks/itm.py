"""Image-text matching: do this image and this text belong together? Wrong pairs come from the global batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vlmerge_cli import ranks
from vlmerge_cli.model.hidden import Joint
from vlmerge_cli.steps.across_ranks import gather, total
from vlmerge_cli.steps.passes import Outcome, Passes, share
from vlmerge_cli.tasks.itc import logits

IGNORE = -100


@dataclass(frozen=True)
class Negatives:
    """How wrong partners are drawn: uniformly, or in proportion to exp of the ITC logits (hard).

    A row is drawn hard with probability 0 up to ``ramp_start`` of the phase, 1 from ``ramp_stop`` on, and
    linearly between. (0, 0) is hard from the start, as published; (1, 1) is never.
    """

    ramp_start: float = 0.0
    ramp_stop: float = 0.0

    def hard_ratio(self, progress: float) -> float:
        """Share of hard negatives, in [0, 1], at ``progress`` in [0, 1] of the phase."""
        if self.ramp_start >= 1 or progress < self.ramp_start:
            return 0.0
        if progress >= self.ramp_stop:
            return 1.0
        return (progress - self.ramp_start) / (self.ramp_stop - self.ramp_start)


def itm(passes: Passes, negatives: Negatives = Negatives()) -> Outcome:
    """Cross-entropy over 3 B rows: the right pairs (1), and each text and each image with a wrong partner (0).

    A pair of the same image, or of an equal caption, is never drawn as wrong; a sample for which the global
    batch holds no wrong partner is left out. Source: paper section 5, reference code (one draw a row).
    """
    allowed_images, allowed_texts = _allowed(passes)
    hard = negatives.hard_ratio(passes.progress)
    with torch.no_grad():
        from_text, from_image = logits(passes, second=False) if hard > 0 else (None, None)
        other_image = _draw(passes, "image", allowed_images, from_text, hard)
        other_text = _draw(passes, "text", allowed_texts, from_image, hard)
    with_image, with_text = passes.mismatched(other_image.clamp(min=0), other_text.clamp(min=0))
    joints: list[Joint] = [passes.matched(), with_image, with_text]
    scores = torch.cat([passes.model.itm(joint) for joint in joints])  # (3 B, 2)
    right = torch.ones_like(other_image)
    labels = torch.cat([right, _label(other_image), _label(other_text)])
    count = total((labels != IGNORE).sum())
    loss = functional.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="sum")
    hits = ((scores.argmax(1) == labels) & (labels != IGNORE)).sum()
    return Outcome(
        share(loss, count) * ranks.world_size(), {"itm_accuracy": share(hits.float(), count) * ranks.world_size()}
    )


def _allowed(passes: Passes) -> tuple[Tensor, Tensor]:
    """(B, all) each: which images may be wrong for a text, which texts for an image."""
    batch = passes.batch
    assert batch.text is not None, "itm needs text"
    texts = gather(batch.text)
    same = (batch.text[:, None, :] == texts[None, :, :]).all(2)
    if batch.image_id is not None:
        same |= batch.image_id[:, None] == gather(batch.image_id)[None, :]
    return ~same, ~same


def _draw(passes: Passes, what: str, allowed: Tensor, scores: Tensor | None, hard: float) -> Tensor:
    """(B,) places in the global batch, -1 where nothing is allowed."""
    weights = allowed.double()
    if scores is not None:
        peaked = torch.softmax(scores.double(), dim=1) * weights
        usable = peaked.sum(1) > 0
        chosen = passes.noise.uniform(f"hard {what}") < hard
        weights = torch.where((usable & chosen)[:, None], peaked, weights)
    upto = weights.cumsum(1)
    point = passes.noise.uniform(f"other {what}").double() * upto[:, -1]
    drawn = torch.searchsorted(upto, point[:, None], right=True)[:, 0].clamp(max=weights.shape[1] - 1)
    return torch.where(upto[:, -1] > 0, drawn, torch.full_like(drawn, -1))


def _label(other: Tensor) -> Tensor:
    return torch.where(other >= 0, 0, IGNORE)
