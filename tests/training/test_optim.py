from __future__ import annotations

import torch

from tests.model.conftest import micro
from vlmerge_cli.training.optim import decays, make_optimizer
from vlmerge_cli.training.pretrain_config import Optimizer
from vlmerge_cli.weights.vlmodel import VLModel


def test_what_decays_does_not_depend_on_the_architecture() -> None:
    chosen = {}
    for architecture in ("specific", "agnostic"):
        for name, parameter in VLModel(micro(architecture)).named_parameters():
            merged = ".".join(part for part in name.split(".") if part not in ("v", "l", "vl"))
            assert chosen.setdefault(merged, decays(name, parameter)) == decays(name, parameter), name
    kept = {name for name, yes in chosen.items() if not yes}
    for name in ("relative_position_bias_table", "transformer.blocks.0.attn.q_bias", "transformer.norm.weight"):
        assert name in kept
    for name in ("transformer.blocks.0.gamma_1", "transformer.cls_token", "logit_scale", "pooler.dense.weight"):
        assert name not in kept


def test_one_step_is_adamw_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]).double())
    bias = torch.nn.Parameter(torch.tensor([0.5]).double())
    optimizer = make_optimizer([("a.weight", weight), ("a.bias", bias)], Optimizer(lr=0.1, weight_decay=0.2))
    weight.grad, bias.grad = torch.tensor([[0.3, -0.4]]).double(), torch.tensor([0.5]).double()
    optimizer.step()
    # after one step the corrected moments are g and g², so the update is lr · sign(g) (eps aside)
    expected = torch.tensor([[1.0, -2.0]]).double() * (1 - 0.1 * 0.2) - 0.1 * torch.tensor([[1.0, -1.0]]).double()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(bias.detach(), torch.tensor([0.4]).double(), rtol=1e-6, atol=1e-7)
