"""The loss of distilling, against plain sums, and its gradient against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.model.conftest import build, micro
from tests.tasks.helpers import batch, model
from vlmerge_cli.steps.distillation import Shares, distillation, divergence, unexplained


def test_unexplained_is_the_error_over_the_spread_of_the_tokens_that_count() -> None:
    found, truth = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    s, t = found[mask], truth[mask]
    expected = ((s - t) ** 2).sum() / ((t - t.mean(0)) ** 2).sum()
    assert unexplained(found, truth, mask).item() == pytest.approx(expected.item(), rel=1e-12)
    assert unexplained(truth[mask].mean(0).expand_as(truth), truth, mask).item() == pytest.approx(1)
    assert unexplained(truth, truth) == 0


def test_divergence_is_kullback_and_leiblers() -> None:
    found, truth = torch.randn(2, 4, 6, dtype=torch.float64)
    p, q = truth.softmax(1), found.softmax(1)
    assert divergence(found, truth).item() == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-12)
    assert divergence(truth + 3, truth).item() == pytest.approx(0, abs=1e-15)


def test_the_loss_is_its_parts_and_vanishes_for_the_teacher_itself() -> None:
    teacher, data = model().eval(), batch()
    assert abs(distillation(teacher, teacher, data, Shares())[0].item()) < 1e-15
    student = model("agnostic").eval()
    whole, parts = distillation(student, teacher, data, Shares(2.0, 3.0, 0.5))
    assert set(parts) == {"text", "image", "joint_text", "joint_image", "tables"}
    assert whole.item() == pytest.approx(sum(part.item() for part in parts.values()))
    _, plain = distillation(student, teacher, data, Shares(1.0, 1.0, 1.0))
    for name, factor in {"text": 2, "image": 2, "joint_text": 3, "joint_image": 3, "tables": 0.5}.items():
        assert parts[name].item() == pytest.approx(factor * plain[name].item())
    text = teacher.alone(teacher.text(data.text, data.text_mask))
    own = student.alone(student.text(data.text, data.text_mask))
    assert plain["text"].item() == pytest.approx(unexplained(own, text, data.text_mask).item())
    _, none = distillation(student, teacher, data, Shares(1.0, 0.0, 0.0))
    assert set(none) == {"text", "image"}


def test_its_gradient_is_that_of_differences() -> None:
    torch.manual_seed(0)
    teacher, student, data = model().eval(), model("agnostic").eval(), batch()
    names = [
        "transformer.blocks.0.attn.qkv.weight",
        "transformer.blocks.2.mlp.fc2.weight",
        "transformer.blocks.3.norm1.weight",
    ]
    loss = distillation(student, teacher, data, Shares())[0]
    loss.backward()

    def value() -> Tensor:
        with torch.no_grad():
            return distillation(student, teacher, data, Shares())[0]

    for name in names:
        parameter = student.get_parameter(name)
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        step, base = 1e-5, parameter.detach().clone()
        parameter.data = base + step * direction
        above = value()
        parameter.data = base - step * direction
        below = value()
        parameter.data = base
        assert parameter.grad is not None
        slope = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-6, abs=1e-9)


def test_a_model_without_the_itc_head_has_no_tables() -> None:

    teacher, student = (
        build(micro(arch, heads=("mlm",), drop_path=0.0)).double().eval() for arch in ("specific", "agnostic")
    )
    assert "tables" not in distillation(student, teacher, batch(), Shares())[1]
