from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.conftest import build, micro
from tests.tasks import helpers
from tests.tasks.helpers import one_by_one
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.classification import Classification


def test_scores_equal_those_of_the_folders_read_plainly(
    evaluation: Callable[..., Evaluation], made: Callable[[Any], Path]
) -> None:
    asked = evaluation("classification")
    found = Classification().evaluate(asked)
    names = sorted(path.name for path in (made("labels") / "train").iterdir())
    logits = one_by_one(asked, lambda m, b: m.classify(m.image(b.image)))
    files = [path for name in names for path in sorted((made("labels") / "val" / name).glob("*"))]
    ranked = [torch.argsort(-logits[f"{path.parent.name}/{path.name}"]).tolist() for path in files]
    truth = [names.index(path.parent.name) for path in files]
    top1 = sum(row[0] == label for row, label in zip(ranked, truth, strict=True))
    top5 = sum(label in row[:5] for row, label in zip(ranked, truth, strict=True))
    assert found.values == {
        "top1": pytest.approx(100 * top1 / len(files)),
        "top5": pytest.approx(100 * top5 / len(files)),
    }
    assert found.predictions[0]["classes"] == [names[label] for label in ranked[0][:5]]


def test_the_loss_smooths_its_labels_and_uses_the_vision_expert_alone() -> None:
    model = build(micro("specific", heads=("classification",), drop_path=0.0, dropout=0.0)).double()
    data = replace(helpers.batch(4), target=torch.tensor([0, 3, 1, 1]))
    loss = Classification().loss(helpers.passes(model, data)).loss
    logs = torch.log_softmax(model.classify(model.image(data.image)).float(), 1)
    expected = -(0.9 * logs[torch.arange(4), data.target] + 0.1 * logs.mean(1)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(".attn.v." in name for name in touched)
    assert not any(
        f".{part}.{expert}." in name for name in touched for part in ("attn", "mlp") for expert in ("l", "vl")
    )


def test_the_loss_of_mixed_images_is_shared_by_both_labels() -> None:
    model = build(micro("specific", heads=("classification",), drop_path=0.0, dropout=0.0)).double()
    share, other = torch.tensor([0.3, 1.0, 0.6, 0.0]), torch.tensor([3, 0, 1, 1])
    plain = replace(helpers.batch(4), target=torch.tensor([0, 3, 1, 2]))
    task = Classification()
    logits = model.classify(model.image(plain.image)).float()
    own, others = (torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
                   for labels in (plain.target, other))  # fmt: skip
    loss = task.loss(helpers.passes(model, replace(plain, mix_share=share, other_target=other))).loss
    assert loss.item() == pytest.approx((share * own + (1 - share) * others).mean().item(), rel=1e-5)
