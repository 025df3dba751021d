from __future__ import annotations

import torch

from tests.model.conftest import micro
from vlmerge_cli.training.optim import make_optimizer, undecayed
from vlmerge_cli.training.pretrain_config import Optimizer
from vlmerge_cli.weights.vlmodel import VLModel


def test_what_decays_does_not_depend_on_the_architecture() -> None:
    chosen = {}
    for architecture in ("specific", "agnostic"):
        model = VLModel(micro(architecture))
        still = undecayed(model)
        for name, _ in model.named_parameters():
            merged = ".".join(part for part in name.split(".") if part not in ("v", "l", "vl"))
            assert chosen.setdefault(merged, name not in still) == (name not in still), name
    kept = {name for name, yes in chosen.items() if not yes}
    for name in ("relative_position_bias_table", "transformer.blocks.0.attn.q_bias", "transformer.norm.weight"):
        assert name in kept
    for head in ("vqa_classifier", "nlvr2_classifier"):  # Linear, norm, GELU, linear: a norm whatever it is called
        assert {f"{head}.1.weight", f"{head}.1.bias", f"{head}.3.bias"} <= kept
        assert {f"{head}.0.weight", f"{head}.3.weight"} & kept == set()
    for name in ("transformer.blocks.0.gamma_1", "transformer.cls_token", "logit_scale", "pooler.dense.weight"):
        assert name not in kept


def test_one_step_is_adamw_by_hand() -> None:
    module = torch.nn.Linear(2, 1).double()
    weight, bias = module.weight, module.bias
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, -2.0]]))
        bias.copy_(torch.tensor([0.5]))
    optimizer = make_optimizer(module, Optimizer(lr=0.1, weight_decay=0.2))
    weight.grad, bias.grad = torch.tensor([[0.3, -0.4]]).double(), torch.tensor([0.5]).double()
    optimizer.step()
    # after one step the corrected moments are g and g², so the update is lr · sign(g) (eps aside)
    expected = torch.tensor([[1.0, -2.0]]).double() * (1 - 0.1 * 0.2) - 0.1 * torch.tensor([[1.0, -1.0]]).double()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(bias.detach(), torch.tensor([0.4]).double(), rtol=1e-6, atol=1e-7)
