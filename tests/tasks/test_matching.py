from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.tasks import helpers
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.matching import Matching, partners


def test_a_partner_is_the_next_with_another_image_and_text() -> None:
    data = helpers.batch(5)
    data = replace(data, image_id=torch.tensor([0, 0, 1, 1, 0]))
    assert partners(data).tolist() == [2, 2, 4, 4, 2]
    text = data.text.clone()
    text[2] = text[0]  # the same caption: not wrong
    assert partners(replace(data, text=text)).tolist() == [3, 2, 4, 4, 2]
    filler = replace(data, valid=torch.tensor([True, True, True, True, False]))
    assert partners(filler).tolist() == [2, 2, 0, 0, 2]
    assert partners(replace(data, image_id=torch.zeros(5, dtype=torch.int64))).tolist() == [-1] * 5


def test_accuracy_counts_both_kinds_of_pairs(evaluation: Callable[..., Evaluation]) -> None:
    asked = evaluation("itm", chunk_size=8)
    found = Matching().evaluate(asked)
    right = wrong = num_wrong = 0
    for batch in asked.batches():
        other = partners(batch)
        for n in torch.nonzero(batch.valid)[:, 0].tolist():
            model, one = asked.model, batch
            for image, label in ((n, 1), (int(other[n]), 0)):
                if image < 0:
                    continue
                said = int(model.itm(model(one.text[[n]], one.text_mask[[n]], one.image[[image]])).argmax())
                right += label == said == 1
                wrong += label == said == 0
                num_wrong += label == 0
    total = found.num_samples + num_wrong
    assert found.values["accuracy"] == pytest.approx(100 * (right + wrong) / total)
    assert found.values["right_pairs"] == pytest.approx(100 * right / found.num_samples)
    assert 0 < num_wrong <= found.num_samples
