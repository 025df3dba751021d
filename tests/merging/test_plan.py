from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import MODULES, expert_key, fails, load, merged_key, ok, read_raw, save, save_all, slot_shapes, tiny
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.layouts.survey import detect
from vlmerge_cli.merging.plan import Drop, Merge, Request, make_plan, sources_of
from vlmerge_cli.methods.interpolation import Interpolation

PLAIN = Request()
ARCHITECTURES = [name for name in MODULES if name != "agnostic"]


def plan_of(path: Path, request: Request = PLAIN):
    with open_checkpoint(path) as opened:
        survey, _ = detect(opened.tensors, "")
        return make_plan(opened, survey, Interpolation(), request), list(opened.tensors)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("request_", [Request(), Request(experts_for="vqa"), Request(keep=("*norm*",))], ids=str)
def test_every_key_is_in_exactly_one_step(architecture: str, request_: Request, tmp_path: Path) -> None:
    plan, keys = plan_of(save(tmp_path / "c.safetensors", tiny(architecture)), request_)
    used = [key for step in plan.steps for key in sources_of(step)]
    assert sorted(used) == sorted(keys)
    targets = [step.target for step in plan.steps if not isinstance(step, Drop)]
    assert sorted(targets) == sorted(plan.specs)


def test_steps_are_in_file_order(tmp_path: Path) -> None:
    plan, keys = plan_of(save(tmp_path / "c.safetensors", dict(reversed(tiny().items()))))
    firsts = [min(keys.index(key) for key in sources_of(step)) for step in plan.steps]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_agnostic_checkpoint_comes_out(architecture: str, tmp_path: Path) -> None:
    source = save_all(tmp_path, tiny(architecture))
    for method in ("interpolation", "regmean"):
        ok("merge", source, "-m", method, "--force")
        assert set(load(tmp_path / "ckpt.merged.safetensors")) == set(tiny("agnostic"))
        assert "agnostic already" in fails(1, "merge", tmp_path / "ckpt.merged.safetensors", "-o", tmp_path / "x")


@pytest.mark.parametrize("layers", [1, 2, 13])
@pytest.mark.parametrize("top", [0, 1, 99])
def test_any_depth_and_any_first_layer_with_vl(layers: int, top: int, tmp_path: Path) -> None:
    ok("merge", save(tmp_path / "c.safetensors", tiny(layers=layers, top=top)))
    assert set(load(tmp_path / "c.merged.safetensors")) == set(tiny("agnostic", layers=layers))


@pytest.mark.parametrize(("task", "used"), [("retrieval", ("v", "l")), ("vqa", ("vl",)), ("nlvr2", ("vl",))])
def test_experts_for_a_task(task: str, used: tuple[str, ...], ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "--experts-for", task)
    merged, source = load(tmp_path / "ckpt.merged.safetensors"), tiny()
    for layer, experts in ((0, ("v", "l")), (2, used)):
        for name in slot_shapes(1, 1):
            mean = np.mean([source[expert_key(layer, name, e)].astype(float) for e in experts], axis=0)
            np.testing.assert_allclose(merged[merged_key(layer, name)], mean, atol=1e-6)
    assert set(merged) == set(tiny("agnostic"))


@pytest.mark.parametrize(
    "pattern",
    ["layers.1.mlp.*", "transformer.blocks.1.mlp.*", "transformer.blocks.1.mlp.v.fc1.weight", "*fc1.weight"],
)
def test_keep(pattern: str, ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "--keep", pattern)
    merged, source = read_raw(tmp_path / "ckpt.merged.safetensors"), read_raw(ckpt)
    for expert in ("v", "l"):
        key = expert_key(1, "mlp.fc1.weight", expert)
        assert merged[key] == source[key]
    assert "transformer.blocks.1.mlp.fc1.weight" not in merged
    assert "transformer.blocks.1.norm1.weight" in merged


def test_keep_lets_unequal_experts_through(tmp_path: Path) -> None:
    tensors = tiny() | {expert_key(1, "mlp.fc1.weight", "v"): np.ones((4, 6), np.float32)}
    ok("merge", save(tmp_path / "c.safetensors", tensors), "--keep", "layers.1.mlp.fc1.weight")


def test_dry_run_says_what_would_happen_and_writes_nothing(ckpt: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    document = ok("merge", ckpt, "--dry-run", "--json", "--experts-for", "vqa").document
    text = ok("merge", ckpt, "--dry-run", "--experts-for", "vqa").out
    assert sorted(tmp_path.iterdir()) == before
    used = [key for step in document["steps"] for key in step["from"]]
    assert sorted(used) == sorted(tiny())
    assert {step["do"] for step in document["steps"]} == {"merge", "copy", "drop"}
    for key in tiny():
        assert key in text
    assert document["num_bytes_in"] == sum(value.nbytes for value in tiny().values())
    assert document["num_bytes_out"] == sum(value.nbytes for value in tiny("agnostic").values())
    assert document["peak_memory_bytes"] < 128 << 20


def test_dry_run_of_regmean_names_grams_and_base(ckpt: Path, tmp_path: Path) -> None:
    document = ok("merge", ckpt, "--dry-run", "--json", "-m", "regmean").document
    linear = [step for step in document["steps"] if step.get("grams")]
    assert len(linear) == 3 * 4
    document = ok(
        "merge", ckpt, "--dry-run", "--json", "-m", "arithmetic", "--base", tmp_path / "base.safetensors"
    ).document
    assert all(step["base"] == step["to"] for step in document["steps"] if step["do"] == "merge")


def test_a_plan_says_how_much(tmp_path: Path) -> None:
    plan, _ = plan_of(save(tmp_path / "c.safetensors", tiny()))
    assert len(plan.merges) == 3 * len(slot_shapes(1, 1))
    assert all(isinstance(step, Merge) for step in plan.merges)
    assert plan.num_bytes_out == sum(value.nbytes for value in tiny("agnostic").values())
