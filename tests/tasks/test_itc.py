from __future__ import annotations

from dataclasses import replace

import torch

from tests.tasks.helpers import batch, model, passes
from vlmerge_cli.steps.precision import autocast
from vlmerge_cli.tasks.itc import itc, logits
from vlmerge_cli.tasks.retrieval import Retrieval


def test_itc_is_the_symmetric_cross_entropy_of_both_halves() -> None:
    of, data = model(), batch()
    text, image = of.text(data.text, data.text_mask), of.image(data.image)
    halves = []
    for second in (False, True):
        t, i = of.features(text, second=second), of.features(image, second=second)
        scale = (of.logit_vl_scale if second else of.logit_scale).exp()
        half = 0.0
        for row in range(len(data)):
            to_images = scale * torch.stack([t[row] @ i[col] for col in range(len(data))])
            to_texts = scale * torch.stack([i[row] @ t[col] for col in range(len(data))])
            half -= (to_images.log_softmax(0)[row] + to_texts.log_softmax(0)[row]) / 2 / len(data)
        halves.append(half)
    found = itc(passes(of, data))
    torch.testing.assert_close(found.loss, sum(halves) / 2, rtol=1e-12, atol=1e-12)


def test_equal_pairs_are_found_and_accuracy_counts_them() -> None:
    of, data = model("agnostic"), batch()
    calls = passes(of, data)
    features = torch.nn.functional.normalize(torch.eye(5, 16).double(), dim=1)
    for second in (False, True):
        calls._done["features", second] = type("F", (), {"text": features, "image": features})()
        calls._done["all features", second] = calls._done["features", second]
    found = itc(calls)
    assert found.values["itc_accuracy"] == 1
    assert found.loss < 1e-3


def test_logits_are_no_multiples_of_a_quarter_under_autocast() -> None:
    """At a scale of 100, as trained models have it, bfloat16 would round logits to steps of .25 and .5."""
    of = model().float()
    with torch.no_grad():
        of.logit_scale.fill_(torch.tensor(100.0).log())
    data = batch()
    data = replace(data, image=data.image.float())
    with torch.no_grad(), autocast(torch.device("cpu"), "bfloat16"):
        calls = passes(of, data)
        tables, loss = logits(calls, second=False), Retrieval().loss(calls).loss
    mine = calls.features(False)
    exact = 100 * mine.text.double() @ mine.image.double().T
    for found, expected in zip(tables, (exact, exact.T), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    targets = torch.arange(5)
    half = (torch.nn.functional.cross_entropy(x, targets) for x in (exact, exact.T))
    torch.testing.assert_close(loss.double(), sum(half) / 2, rtol=0, atol=1e-4)
