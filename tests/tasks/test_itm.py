from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tasks.helpers import batch, model, passes
from vlmerge_cli.tasks import itm as itm_module
from vlmerge_cli.tasks.itc import logits
from vlmerge_cli.tasks.itm import Negatives, itm

HARD, NEVER = Negatives(0, 0), Negatives(1, 1)


@pytest.mark.parametrize("negatives", [HARD, NEVER])
def test_itm_is_the_mean_cross_entropy_of_three_kinds_of_pairs(
    negatives: Negatives, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, data = model(), batch()
    calls, drawn = passes(of, data), {}
    inner = itm_module._draw

    def draw(passes, what, *rest):  # remembers the choice, so that a plain loop can repeat it
        drawn[what] = inner(passes, what, *rest)
        return drawn[what]

    monkeypatch.setattr(itm_module, "_draw", draw)
    found = itm(calls, negatives)
    losses, hits = [], 0
    for row in range(len(data)):
        for text, image, label in ((row, row, 1), (row, drawn["image"][row], 0), (drawn["text"][row], row, 0)):
            one = of.joint(data.text[text][None], data.text_mask[text][None], data.image[image][None])
            scores = of.itm(one)[0]
            losses.append(-scores.log_softmax(0)[label])
            hits += int(scores.argmax() == label)
    torch.testing.assert_close(found.loss, torch.stack(losses).mean(), rtol=1e-10, atol=1e-12)
    assert found.values["itm_accuracy"].item() == pytest.approx(hits / 15)


def test_hard_negatives_follow_the_itc_weights() -> None:
    of, data = model(), batch(8)
    scores, _ = logits(passes(of, data), second=False)
    allowed = ~torch.eye(8, dtype=torch.bool)
    counts = torch.zeros(8, 8)
    rounds = 4000
    for number in range(rounds):
        calls = passes(of, replace(data, row=data.row + 1000 * number))
        calls._done.update(passes(of, data)._done)
        drawn = itm_module._draw(calls, "image", allowed, scores, 1.0)
        counts[torch.arange(8), drawn] += 1
    expected = scores.softmax(1) * allowed
    expected = expected / expected.sum(1, keepdim=True)
    assert (counts.diagonal() == 0).all()
    assert (counts / rounds - expected).abs().max() < 0.035  # 4.4 standard errors at p = 0.5


@torch.no_grad()
def test_hard_negatives_are_drawn_from_the_main_half_each_in_its_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text's wrong image by the row of the text, an image's wrong text by that of the image; never by vl."""
    of, data = model(), batch(8)
    given = {}
    inner = itm_module._draw
    monkeypatch.setattr(
        itm_module, "_draw", lambda calls, what, allowed, scores, hard: given.update({what: scores})
        or inner(calls, what, allowed, scores, hard),
    )  # fmt: skip
    itm(passes(of, data), HARD)
    texts = of.projected(of.alone(of.text(data.text, data.text_mask)), "l")
    images = of.projected(of.alone(of.image(data.image)), "v")
    table = of.logit_scale.exp() * texts @ images.T  # texts down, images across
    torch.testing.assert_close(given["image"], table, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(given["text"], table.T, rtol=1e-10, atol=1e-12)
    assert (table - table.T).abs().max() > 0.1


@pytest.mark.parametrize("negatives", [HARD, NEVER])
def test_an_equal_caption_or_the_same_image_is_never_a_negative(negatives: Negatives) -> None:
    of, data = model(), batch(8)
    text = data.text.clone()
    text[1] = text[0]
    data = replace(data, text=text, image_id=torch.tensor([0, 1, 2, 2, 4, 5, 6, 7]))
    for number in range(200):
        calls = passes(of, replace(data, row=data.row + 1000 * number))
        allowed, _ = itm_module._allowed(calls)
        scores = logits(calls, second=False)[0] if negatives is HARD else None
        drawn = itm_module._draw(calls, "text", allowed, scores, float(negatives is HARD)).tolist()
        assert drawn[0] not in (0, 1)
        assert drawn[1] not in (0, 1)
        assert drawn[2] not in (2, 3)
        assert drawn[3] not in (2, 3)


def test_samples_without_any_negative_are_left_out() -> None:
    of, data = model(), batch(4)
    data = replace(data, image_id=torch.zeros(4, dtype=torch.long))
    found = itm(passes(of, data), HARD)
    scores = of.itm(of.joint(data.text, data.text_mask, data.image))
    torch.testing.assert_close(found.loss, -scores.log_softmax(1)[:, 1].mean(), rtol=1e-10, atol=1e-12)


def test_the_ramp_goes_from_random_to_hard() -> None:
    ramp = Negatives(0.25, 0.75)
    assert [ramp.hard_ratio(p) for p in (0, 0.25, 0.5, 0.75, 1)] == [0, 0, 0.5, 1, 1]
    assert [HARD.hard_ratio(p) for p in (0, 1)] == [1, 1]
    assert [NEVER.hard_ratio(p) for p in (0, 1)] == [0, 0]
