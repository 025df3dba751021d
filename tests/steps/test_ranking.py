"""Recalls in chunks against the whole table sorted plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmerge_cli.steps.ranking import recalls


def plainly(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    table = images @ texts.T
    found = {}
    order = np.argsort(-table, axis=1, kind="stable")
    with_text = [i for i in range(len(images)) if (owner == i).any()]
    for k in (1, 5, 10):
        found[f"tr_{k}"] = 100 * np.mean([(owner[order[i, :k]] == i).any() for i in with_text])
    order = np.argsort(-table.T, axis=1, kind="stable")
    for k in (1, 5, 10):
        found[f"ir_{k}"] = 100 * np.mean([owner[t] in order[t, :k] for t in range(len(texts))])
    for side in ("tr", "ir"):
        found[f"{side}_mean"] = np.mean([found[f"{side}_{k}"] for k in (1, 5, 10)])
    return found | {"mean_recall": (found["tr_mean"] + found["ir_mean"]) / 2}


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("levels", [0, 2])
def test_chunks_give_what_sorting_the_whole_table_gives(chunk_size: int, levels: int) -> None:
    rng = np.random.default_rng(levels)
    images, texts = rng.normal(size=(40, 6)), rng.normal(size=(150, 6))
    owner = rng.integers(0, 38, 150)  # two images have no text
    texts += images[owner]
    if levels:  # many exact ties
        images, texts = np.sign(images), np.sign(texts)
    found = recalls(torch.tensor(images), torch.tensor(texts), torch.tensor(owner), chunk_size)
    expected = plainly(images, texts, owner)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_features_that_are_all_alike_get_what_chance_gives() -> None:
    found = recalls(torch.ones(100, 4), torch.ones(100, 4), torch.arange(100))
    assert (found["tr_1"], found["ir_10"]) == (1.0, 10.0)


def test_features_that_fit_get_everything() -> None:
    eye = torch.eye(30)
    found = recalls(eye, eye.repeat_interleave(5, 0), torch.arange(30).repeat_interleave(5))
    assert found["mean_recall"] == 100.0
