from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vlmerge_cli.training.schedule import factor, set_rate


def test_warm_up_then_down_to_zero() -> None:
    rates = [factor(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1
    assert rates[-1] == pytest.approx(1 / 90)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_no_warm_up_starts_at_the_peak() -> None:
    assert factor(0, 10, 0.0) == 1


def test_groups_have_their_multiplier() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    other = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [parameter]}, {"params": [other], "multiplier": 10.0}])
    assert set_rate(optimizer, 0.5, 0, 4, 0.5) == 0.25
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 2.5]


def test_cosine_decay() -> None:
    rates = [factor(step, 100, 0.1, "cosine") for step in range(100)]
    assert rates[:10] == [factor(step, 100, 0.1) for step in range(10)]
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 4e-4
    assert all(a > b for a, b in pairwise(rates[10:]))
