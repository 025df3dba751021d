from __future__ import annotations

import torch

from vlmerge_cli.steps.keyed_random import Noise


def test_a_sample_draws_the_same_in_any_batch() -> None:
    together = Noise(3, torch.arange(8)).uniform("x", 4, 5)
    alone = torch.cat([Noise(3, torch.tensor([row])).uniform("x", 4, 5) for row in range(8)])
    assert torch.equal(together, alone)


def test_purpose_seed_row_and_place_all_matter() -> None:
    base = Noise(0, torch.arange(4)).uniform("x", 64)
    assert not torch.equal(base, Noise(1, torch.arange(4)).uniform("x", 64))
    assert not torch.equal(base, Noise(0, torch.arange(4)).uniform("y", 64))
    assert len(base.unique()) == 4 * 64


def test_uniform_numbers_are_uniform_and_uncorrelated() -> None:
    drawn = Noise(7, torch.arange(2000)).uniform("x", 50).double()
    assert 0 <= drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.003  # 3 standard errors of 100,000 draws
    assert abs(drawn.var() - 1 / 12) < 0.001
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    assert ((counts - 5000).square() / 5000).sum() < 45  # chi-square, 19 degrees of freedom, p = 0.0007
    for one, other in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1])):
        both = torch.stack([one.flatten(), other.flatten()])
        assert abs(torch.corrcoef(both)[0, 1]) < 0.012


def test_dropout_and_depth_keep_the_expected_value() -> None:
    noise = Noise(0, torch.arange(4000))
    kept = noise.dropout("d", 0.25, 20)
    assert kept is not None
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(kept.mean() - 1) < 0.01
    depth = noise.depth("p", 0.5, 3)
    assert depth is not None
    assert depth.shape == (3, 2, 4000)
    assert torch.all(depth[0] == 1)  # the first layer always runs
    assert abs(depth[2].mean() - 1) < 0.05
    assert noise.dropout("d", 0.0, 20) is None
    assert noise.depth("p", 0.0, 3) is None
