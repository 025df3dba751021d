"""Masked language modelling: the masked words, given the rest of the text and the image."""

from __future__ import annotations

from torch.nn import functional

from vlmerge_cli import ranks
from vlmerge_cli.steps.across_ranks import total
from vlmerge_cli.steps.passes import Outcome, Passes, share


def mlm(passes: Passes) -> Outcome:
    """Cross-entropy of the masked tokens, divided by their number in the global batch."""
    labels = passes.batch.masked_labels
    assert labels is not None, "mlm needs masked text"
    wanted = labels >= 0
    scores = passes.model.mlm(passes.masked().text[wanted])  # (masked tokens, vocabulary)
    count = total(wanted.sum())
    loss = functional.cross_entropy(scores, labels[wanted], reduction="sum")
    hits = (scores.argmax(1) == labels[wanted]).sum().float()
    each = ranks.world_size()
    return Outcome(share(loss, count) * each, {"mlm_accuracy": share(hits, count) * each})
