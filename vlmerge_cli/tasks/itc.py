"""Image-text contrastive learning: each image finds its text among all of the global batch, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vlmerge_cli import ranks
from vlmerge_cli.steps.passes import Outcome, Passes


def itc(passes: Passes) -> Outcome:
    """½ (L + L_vl): features of the v and l experts, and those of the vl expert on one modality alone.

    L = ½ (CE(s T Iᵀ) + CE(s I Tᵀ)) over the rows of this rank and the columns of all, targets on the
    diagonal, s = exp(logit_scale) learned apart for the two halves. Source: paper section 5, reference code.
    """
    main, accuracy = half(passes, second=False)
    second, _ = half(passes, second=True)
    return Outcome((main + second) / 2, {"itc_accuracy": accuracy})


def logits(passes: Passes, second: bool) -> tuple[Tensor, Tensor]:
    """(B, all) each: this rank's texts against all images, this rank's images against all texts."""
    model, mine, everyone = passes.model, passes.features(second), passes.all_features(second)
    return model.table(mine.text, everyone.image, second=second), model.table(mine.image, everyone.text, second=second)


def half(passes: Passes, second: bool) -> tuple[Tensor, Tensor]:
    """L of one half and the share of rows whose own partner scores highest."""
    from_text, from_image = logits(passes, second)
    targets = torch.arange(len(from_text), device=from_text.device) + ranks.rank() * len(from_text)
    loss = (functional.cross_entropy(from_text, targets) + functional.cross_entropy(from_image, targets)) / 2
    hits = (from_text.argmax(1) == targets).float() + (from_image.argmax(1) == targets).float()
    return loss, hits.mean() / 2
