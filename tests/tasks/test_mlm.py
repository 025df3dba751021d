from __future__ import annotations

from dataclasses import replace

import torch

from tests.tasks.helpers import batch, model, passes
from vlmerge_cli.tasks.mlm import mlm


def test_mlm_is_the_mean_over_masked_tokens() -> None:
    of, data = model(), batch()
    labels = data.masked_labels.clone()
    labels[0, 2] = data.text[0, 2]  # one text with two masked tokens
    data = replace(data, masked_labels=labels)
    losses = []
    for row in range(len(data)):
        one = of.joint(data.masked_text[row][None], data.text_mask[row][None], data.image[row][None])
        for place in range(6):
            if labels[row, place] != -100:
                losses.append(-of.mlm(one.text[0, place]).log_softmax(0)[labels[row, place]])
    assert len(losses) == 6
    torch.testing.assert_close(mlm(passes(of, data)).loss, torch.stack(losses).mean(), rtol=1e-10, atol=1e-12)


def test_no_masked_token_is_no_loss() -> None:
    of, data = model(), batch()
    found = mlm(passes(of, replace(data, masked_labels=torch.full_like(data.text, -100))))
    assert found.loss == 0
    found.loss.backward()
