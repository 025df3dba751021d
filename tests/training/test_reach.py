from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from tests.model.conftest import build, micro
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.steps.keyed_random import Noise
from vlmerge_cli.steps.passes import Passes
from vlmerge_cli.tasks.task import Task, task
from vlmerge_cli.training.reach import freeze_unreached
from vlmerge_cli.weights.vlmodel import VLModel


def loss_of(model: VLModel, chosen: Task) -> Callable[[Batch], Tensor]:
    return lambda batch: chosen.loss(Passes(model, batch, Noise(0, batch.row), 0.0)).loss


@pytest.mark.parametrize(
    ("name", "reached"),
    [("classification", {"v"}), ("segmentation", {"v"}), ("retrieval", {"v", "l"}), ("vqa", {"v", "l", "vl"}),
     ("nlvr2", {"v", "l", "vl"})],
)  # fmt: skip
def test_only_the_experts_of_a_task_learn(name: str, reached: set[str]) -> None:
    model = build(micro("specific", heads=(task(name).head,)))
    num_frozen = freeze_unreached(model, loss_of(model, task(name)), task(name).kind)
    learning = {n.split(".")[4] for n, p in model.named_parameters() if ".blocks." in n and ".attn." in n
                and p.requires_grad and n.split(".")[4] in ("v", "l", "vl")}  # fmt: skip
    assert learning == reached
    assert num_frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad) > 0
    assert all(p.grad is None for p in model.parameters())
    top = {n.split(".")[4] for n, p in model.named_parameters() if ".blocks.3.attn." in n and p.requires_grad}
    assert top & {"v", "l", "vl"} == ({"vl"} if len(reached) == 3 else reached)


def test_a_model_that_shares_all_learns_all_its_blocks() -> None:
    model = build(micro("agnostic", heads=("vqa",)))
    freeze_unreached(model, loss_of(model, task("vqa")), "questions")
    assert all(p.requires_grad for n, p in model.named_parameters() if ".blocks." in n)
