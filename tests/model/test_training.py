"""A step, mixed precision, recomputed activations and compilation, for each architecture."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.model.conftest import FIVE, Batch, batch, build, every_output, loss_of, micro
from vlmerge_cli.weights.vlmodel import VLModel

VARIANTS = [*((name, {}) for name in FIVE), ("custom-ln", {"joint_below_fusion": True}),
            ("specific", {"positions": "absolute"})]  # fmt: skip


def gpu(*values: object) -> object:
    """The same case on a GPU, where there is one."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.param("cuda", *values, marks=[pytest.mark.gpu, skip], id="-".join(["cuda", *map(str, values)]))


CASES = [(device, *variant) for variant in VARIANTS for device in ("cpu",)] + [gpu(*variant) for variant in VARIANTS]


def prepared(architecture: str, changes: dict[str, object], device: str) -> tuple[VLModel, Batch]:
    model = build(micro(architecture, drop_path=0.0, dropout=0.0, **changes)).to(device)
    return model, Batch(*(x.to(device) for x in batch(model.config)))


Outputs = Callable[[VLModel, Batch], dict[str, Tensor]]


def gradients(model: VLModel, inputs: Batch, of: Outputs = every_output) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(of(model, inputs)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("device", "architecture", "changes"), CASES)
def test_every_parameter_gets_a_gradient_and_a_step_helps(
    device: str, architecture: str, changes: dict[str, object]
) -> None:
    model, inputs = prepared(architecture, changes, device)
    model.train()
    found = gradients(model, inputs)
    without = [name for name, _ in model.named_parameters() if name not in found or not found[name].abs().sum() > 0]
    # Scales are the losses' business; one row of BERT's token types is ever used, so its table has a gradient.
    assert set(without) == {"logit_scale", "logit_vl_scale"}
    before = loss_of(every_output(model, inputs)).item()
    norm = sum(float(grad.pow(2).sum()) for grad in found.values())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in found:
                parameter -= 1e-3 / norm**0.5 * found[name]
    after = loss_of(every_output(model, inputs)).item()
    assert after < before
    assert before - after == pytest.approx(1e-3 * norm**0.5, rel=0.1)


@pytest.mark.parametrize(("device", "architecture", "changes"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast(device: str, architecture: str, changes: dict[str, object], dtype: torch.dtype) -> None:
    model, inputs = prepared(architecture, changes, device)
    with torch.no_grad():
        expected = every_output(model, inputs)
        with torch.autocast(device, dtype):
            found = every_output(model, inputs)
    for name, value in expected.items():
        error = (found[name].float() - value).norm() / value.norm()
        assert error < (0.05 if dtype == torch.bfloat16 else 0.01), name
    with torch.autocast(device, dtype):
        loss = loss_of(every_output(model, inputs))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("device", "architecture", "changes"), CASES)
def test_recomputed_activations_give_the_same_gradients(
    device: str, architecture: str, changes: dict[str, object]
) -> None:
    model, inputs = prepared(architecture, changes, device)
    model.config = model.config.change(drop_path=0.5)
    model.train()
    torch.manual_seed(0)
    expected = gradients(model, inputs)
    model.recompute_activations()
    torch.manual_seed(0)
    found = gradients(model, inputs)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_recomputed_blocks_run_twice() -> None:
    model, inputs = prepared("specific", {}, "cpu")
    calls: list[int] = []
    model.transformer.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(model, inputs)
    once = len(calls)
    model.recompute_activations()
    gradients(model, inputs)
    assert len(calls) == once + 2 * once > 0


def main_passes(model: VLModel, inputs: Batch) -> dict[str, Tensor]:
    """The joint pass and one alone, from shared states: what a compiler has to get right, no more."""
    text, image = model.text(inputs.ids, inputs.mask), model.image(inputs.image)
    return {"joint": model.fuse(text, image).text, "second": model.alone(image, "vl")}


@pytest.mark.parametrize(("device", "architecture", "changes"), CASES)
def test_compiled_passes_are_the_same(device: str, architecture: str, changes: dict[str, object]) -> None:
    check_compiled(device, architecture, changes, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_compiled_by_the_default_backend() -> None:
    check_compiled("cpu", "specific", {}, "inductor")


def check_compiled(device: str, architecture: str, changes: dict[str, object], backend: str) -> None:
    torch.compiler.reset()
    model, inputs = prepared(architecture, {"num_layers": 2, "fusion_layer": 1, **changes}, device)
    expected, expected_grads = main_passes(model, inputs), gradients(model, inputs, main_passes)
    compiled = torch.compile(main_passes, backend=backend, fullgraph=True)
    for name, value in compiled(model, inputs).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    for name, value in gradients(model, inputs, compiled).items():
        torch.testing.assert_close(value, expected_grads[name], atol=1e-4, rtol=1e-3)
