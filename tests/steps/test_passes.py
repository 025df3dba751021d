"""Sharing passes changes nothing; with noise each pass draws its own, keyed by sample."""

from __future__ import annotations

import torch

from tests.model.conftest import build, micro
from tests.tasks.helpers import HEADS, batch, model, passes
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.steps.keyed_random import Noise
from vlmerge_cli.steps.passes import Passes
from vlmerge_cli.tasks.itc import itc
from vlmerge_cli.tasks.itm import Negatives, itm
from vlmerge_cli.tasks.mlm import mlm


def losses(calls: Passes) -> torch.Tensor:
    return torch.stack([itc(calls).loss, itm(calls, Negatives()).loss, mlm(calls).loss])


def test_shared_passes_equal_separate_ones() -> None:
    of, data = model(), batch()
    shared = losses(passes(of, data))
    apart = torch.stack([itc(passes(of, data)).loss, itm(passes(of, data)).loss, mlm(passes(of, data)).loss])
    torch.testing.assert_close(shared, apart, rtol=1e-12, atol=1e-12)


def noisy() -> tuple[object, Batch]:
    of = build(micro("specific", heads=HEADS, drop_path=0.3, dropout=0.2)).double().train()
    return of, batch()


def test_noise_is_the_same_whenever_the_same_samples_come() -> None:
    of, data = noisy()
    first = losses(passes(of, data))
    torch.manual_seed(99)  # no global generator is looked at
    assert torch.equal(first, losses(passes(of, data)))
    other = losses(Passes(of, data, Noise(1, data.row), 1.0))
    assert not torch.allclose(first, other)


def test_joint_passes_of_different_objectives_draw_different_noise() -> None:
    of, data = noisy()
    calls = passes(of, data)
    plain = torch.cat(list(calls.matched()), dim=1)
    again = torch.cat(list(calls.matched()), dim=1)
    assert torch.equal(plain, again)
    masked = calls._joint(data.text, data.text_mask, data.image, "masked")
    assert not torch.allclose(plain, torch.cat(list(masked), dim=1))
