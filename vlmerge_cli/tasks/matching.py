"""Zero-shot image-text matching: does the pre-trained ITM head tell right pairs from wrong ones?"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.steps.evaluation import Evaluation, Scores, image_of, percent, text_of
from vlmerge_cli.tasks.task import Measure


class Matching(Measure):
    """Each text with its own image, and with the next one of its chunk that shows something else.

    A sample whose chunk has no other image (and other text) is left out of the wrong pairs. Which pairs are wrong
    depends on the size of the chunks, not on the number of ranks. Chance is 50 where both kinds are as many.
    """

    name = "itm"
    kind = "pairs"
    served_by = ("itm",)
    main = "accuracy"

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """Accuracy over every right pair and, for each, one wrong one; and on either alone."""

        def judge(batch: Batch) -> Tensor:
            model = evaluation.model
            text, image = text_of(model, batch), image_of(model, batch)
            other = partners(batch)
            right = model.itm(model.fuse(text, image)).argmax(1) == 1
            wrong = model.itm(model.fuse(text, image[other.clamp(min=0)])).argmax(1) == 0
            return torch.stack([right, wrong & (other >= 0), other >= 0], dim=1)

        rows, found = evaluation.collect(judge)
        right, wrong, num_wrong = found.sum(0).tolist()
        scores = {
            "accuracy": percent(right + wrong, len(rows) + num_wrong),
            "right_pairs": percent(right, len(rows)),
            "wrong_pairs": percent(wrong, num_wrong),
        }
        return Scores(len(rows), scores)


def partners(batch: Batch) -> Tensor:
    """(B,) for each text the next sample, around the end, with another image and another text; -1: there is none."""
    assert batch.text is not None, "matching needs text"
    assert batch.image_id is not None, "matching needs pairs"
    size = len(batch)
    other = (batch.text[:, None] != batch.text[None]).any(2) & (batch.image_id[:, None] != batch.image_id[None])
    other &= batch.valid[None, :]
    steps = torch.arange(size, device=other.device)
    ahead = (steps[None, :] - steps[:, None]) % size  # (B, B) how far on sample j is from sample i
    found = torch.where(other, ahead, size).min(1).values
    return torch.where(found < size, (steps + found) % size, torch.full_like(steps, -1))
