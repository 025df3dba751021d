"""A fit is the least squares of all its tokens put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmerge_cli.errors import MergeError
from vlmerge_cli.layerwise.fit import Fit

CPU = torch.device("cpu")


def made(seed: int, num: int, width: int = 7, height: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num, width)) @ rng.standard_normal((width, width)), rng.standard_normal((num, height))


@pytest.mark.parametrize("has_bias", [True, False])
def test_it_equals_plain_least_squares_on_all_inputs_together(has_bias: bool) -> None:
    fit, weights = Fit("layer 0 mlp.fc1", 7, 5, CPU), {"joint": 4.0}
    rows, targets, counts = [], [], {"text": 30, "joint": 50}
    for number, (name, count) in enumerate(counts.items()):
        x, y = made(number, count)
        for part in np.array_split(np.arange(count), 3):
            fit.add(name, torch.from_numpy(x[part]), torch.from_numpy(y[part]))
        factor = np.sqrt(weights.get(name, 1.0) / count)
        ones = [np.ones((count, 1))] if has_bias else []
        rows.append(factor * np.concatenate([x, *ones], 1))
        targets.append(factor * y)
    rng = np.random.default_rng(9)
    average, bias = rng.standard_normal((5, 7)), rng.standard_normal(5) if has_bias else None
    found, shift = fit.solve(torch.from_numpy(average), None if bias is None else torch.from_numpy(bias), 1e-3, weights)
    a, b = np.concatenate(rows), np.concatenate(targets)
    size = a.shape[1]
    drawn = np.sqrt(1e-3 * np.trace(a.T @ a) / size)
    start = average.T if bias is None else np.concatenate([average.T, bias[None]])
    right = np.linalg.lstsq(np.concatenate([a, drawn * np.eye(size)]), np.concatenate([b, drawn * start]), rcond=None)[
        0
    ]
    np.testing.assert_allclose(found.numpy(), right[:7].T, atol=1e-9)
    assert (shift is None) == (bias is None)
    if shift is not None:
        np.testing.assert_allclose(shift.numpy(), right[7], atol=1e-9)


def test_some_of_the_outputs() -> None:
    fit = Fit("layer 0 attn.qkv", 7, 5, CPU)
    fit.add("text", *map(torch.from_numpy, made(0, 40)))
    whole, _ = fit.solve(torch.zeros(5, 7), None, 0.0, {})
    part, _ = fit.rows(slice(1, 3)).solve(torch.zeros(2, 7), None, 0.0, {})
    torch.testing.assert_close(part, whole[1:3])


def test_directions_without_data_keep_the_average_and_need_a_ridge() -> None:
    fit = Fit("layer 3 mlp.fc2", 7, 5, CPU)
    x, y = made(0, 40)
    x[:, 2] = 0
    fit.add("text", *map(torch.from_numpy, (x, y)))
    average = torch.full((5, 7), 3.0, dtype=torch.float64)
    found, _ = fit.solve(average, None, 1e-6, {})
    torch.testing.assert_close(found[:, 2], average[:, 2])
    with pytest.raises(MergeError, match=r"layer 3 mlp\.fc2: the sums of its inputs are singular"):
        fit.solve(average, None, 0.0, {})


def test_inputs_that_are_not_finite() -> None:
    fit = Fit("layer 3 mlp.fc2", 7, 5, CPU)
    x, y = made(0, 4)
    x[0, 0] = np.nan
    fit.add("text", *map(torch.from_numpy, (x, y)))
    with pytest.raises(MergeError, match="the inputs are not finite"):
        fit.solve(torch.zeros(5, 7), None, 1e-6, {})
