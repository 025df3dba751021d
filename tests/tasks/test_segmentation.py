from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.conftest import build, micro
from tests.tasks import helpers
from tests.tasks.helpers import one_by_one
from vlmerge_cli.data.masking import IGNORE
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.segmentation import Segmentation, confusion, intersection_over_union


def test_mean_iou_equals_that_of_the_pictures_read_plainly(
    evaluation: Callable[..., Evaluation], made: Callable[[Any], Path]
) -> None:
    asked = evaluation("segmentation")
    found = Segmentation().evaluate(asked)
    said = one_by_one(asked, lambda m, b: m.segment(m.image(b.image)).argmax(1))
    files = sorted((made("masks") / "annotations" / "validation").glob("*.png"))
    truth = np.stack([np.asarray(Image.open(file)).astype(int) - 1 for file in files])
    guess = np.stack([said[file.with_suffix(".jpg").name].numpy() for file in files])
    labelled = truth >= 0
    ious = []
    for label in range(8):
        ours, theirs = (guess == label) & labelled, truth == label
        if (ours | theirs).any():
            ious.append((ours & theirs).sum() / (ours | theirs).sum())
    assert found.values["miou"] == pytest.approx(100 * np.mean(ious))
    assert found.values["pixel_accuracy"] == pytest.approx(100 * (guess == truth)[labelled].mean())
    assert found.num_samples == len(files)
    assert (truth < 0).any()  # unlabelled pixels are among them


def test_counts_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, IGNORE], [1, 1, 0, IGNORE]])
    said = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 2]])
    counts = confusion(said, truth, 3)
    assert counts.tolist() == [[2, 1, 0], [0, 3, 0], [0, 0, 0]]
    assert intersection_over_union(counts) == {0: 2 / 3, 1: 3 / 4}  # nothing is, or is called, 2


def test_the_loss_is_averaged_over_labelled_pixels() -> None:
    model = build(micro("specific", heads=("segmentation",), drop_path=0.0, dropout=0.0)).double()
    draw = torch.Generator().manual_seed(2)
    target = torch.randint(-1, 3, (4, 8, 8), generator=draw)
    target[target < 0] = IGNORE
    data = replace(helpers.batch(4), target=target)
    logs = torch.log_softmax(model.segment(model.image(data.image)).float(), 1).permute(0, 2, 3, 1)
    labelled = target >= 0
    expected = -logs[labelled].gather(1, target[labelled][:, None]).mean()
    assert Segmentation().loss(helpers.passes(model, data)).loss.item() == pytest.approx(expected.item(), rel=1e-5)
