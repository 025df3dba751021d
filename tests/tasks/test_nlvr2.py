from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.conftest import build, micro
from tests.tasks import helpers
from tests.tasks.helpers import one_by_one
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.nlvr2 import Nlvr2
from vlmerge_cli.weights.vlmodel import VLModel


def logits(model: VLModel, batch: Any) -> torch.Tensor:
    joints = [model.joint(batch.text, batch.text_mask, image, second=second)
              for image, second in ((batch.image, False), (batch.image2, True))]  # fmt: skip
    return model.nlvr2(*joints)


def test_scores_equal_those_of_the_file_read_plainly(
    evaluation: Callable[..., Evaluation], made: Callable[[Any], Path]
) -> None:
    asked = evaluation("nlvr2")
    found = Nlvr2().evaluate(asked)
    lines = [json.loads(line) for line in next(made("statements").rglob("dev.json")).read_text().splitlines()]
    said = {key: bool(row.argmax()) for key, row in one_by_one(asked, logits).items()}
    groups = defaultdict(list)
    for line in lines:
        split, group, _, sentence = line["identifier"].split("-")
        groups[split, group, sentence].append(said[line["identifier"]] == (line["label"].lower() == "true"))
    judged = [right for group in groups.values() for right in group]
    assert found.values["accuracy"] == pytest.approx(100 * sum(judged) / len(lines))
    assert found.values["consistency"] == pytest.approx(100 * sum(map(all, groups.values())) / len(groups))
    assert any(len(group) > 1 for group in groups.values())
    assert found.predictions[0] == {
        "identifier": lines[0]["identifier"], "prediction": str(said[lines[0]["identifier"]])
    }  # fmt: skip


@pytest.mark.parametrize("random", [False, True])
def test_the_loss_is_cross_entropy_of_two_joint_passes(random: bool) -> None:
    noise = 0.3 if random else 0.0
    model = build(micro("specific", heads=("nlvr2",), drop_path=noise, dropout=noise)).double()
    draw = torch.Generator().manual_seed(1)
    data = helpers.replace(
        helpers.batch(4), image2=torch.randn(4, 3, 8, 8, generator=draw).double(), target=torch.tensor([0, 1, 1, 0])
    )
    expected = -torch.log_softmax(logits(model, data).float(), 1)[torch.arange(4), data.target].mean().item()
    assert Nlvr2().loss(helpers.passes(model, data)).loss.item() == pytest.approx(expected, rel=1e-5)
    if random:
        model.train()
        once, again = (Nlvr2().loss(helpers.passes(model, data)).loss.item() for _ in range(2))
        assert once == again  # keyed by sample, not by a generator's state
        assert once != pytest.approx(expected, rel=1e-3)
