"""Hooks, masks and sums: Grams equal XᵀX of the activations, computed directly in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.errors import LayoutError, MergeError, UsageError
from vlmerge_cli.grams import expert_inputs
from vlmerge_cli.grams import sums as sums_room
from vlmerge_cli.grams.collector import collect_grams, find_sites
from vlmerge_cli.grams.sums import HostSums, Sums, TorchSums
from vlmerge_cli.layouts.layout import Layout, built_in, from_mapping
from vlmerge_cli.methods.linalg import unpack
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel

LAYOUT = built_in("vl-merging")
Golden = tuple[VLModel, dict[str, Tensor]]


@contextmanager
def captured(model: nn.Module, names: set[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Inputs of modules, call by call, as they came."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].clone()))
        for name, module in model.named_modules()
        if name in names
    ]
    yield seen
    for handle in handles:
        handle.remove()


def error_of(triangle: np.ndarray, rows: Tensor) -> float:
    """Relative, in the Frobenius norm, against XᵀX in float64."""
    exact = rows.double().T @ rows.double()
    return float(torch.linalg.norm(torch.from_numpy(unpack(triangle)) - exact) / torch.linalg.norm(exact))


@pytest.fixture(scope="module")
def golden(goldens: Path) -> tuple[VLModel, dict[str, Tensor]]:
    model = VLModel.from_pretrained(goldens / "merge" / "msa.safetensors", num_heads=2)
    return model, load_file(goldens / "forward" / "inputs.safetensors")


def golden_inputs(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return inputs["text_ids"], inputs["text_masks"].bool(), inputs["image"]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-7), ("float64", 1e-14)])
def test_golden_model_with_padding(golden: Golden, precision: str, tolerance: float) -> None:
    """As published: every row counts; one Gram for each linear slot and expert, under its weight's key."""
    model, inputs = golden
    ids, mask, image = golden_inputs(inputs)
    assert not mask.all()
    sites = find_sites(model, LAYOUT)
    assert len(sites) == 4 * 26  # qkv, proj, fc1, fc2 of 12 v, 12 l and 2 vl
    with (
        captured(model, {site.module for site in sites}) as seen,
        collect_grams(model, LAYOUT, precision=precision, include_padding=True) as collector,
    ):
        for _ in range(3):
            expert_inputs.run(model, ids, mask, image, expert_inputs.PASSES, collector)
        for site in sites:
            rows = torch.cat([x.reshape(-1, site.width) for x in seen[site.module]])
            assert collector.counts[site.key] == len(rows) > 0
            assert error_of(collector.triangle(site.key), rows) < tolerance, site


@pytest.mark.parametrize("passed", ["all", "image,text", "joint", "itc"])
def test_padding_does_not_count(golden: Golden, passed: str) -> None:
    """Padded positions of the text are left out of l's Grams and of vl's, wherever the text is in the sequence."""
    model, inputs = golden
    ids, mask, image = golden_inputs(inputs)
    num_text, num_image = ids.shape[1], model.config.num_image_tokens
    with_image = torch.cat([mask, torch.ones(len(mask), num_image, dtype=torch.bool)], dim=1)
    keep = {num_text: mask, num_image: torch.ones(len(mask), num_image, dtype=torch.bool)}
    keep[num_text + num_image] = with_image
    sites = find_sites(model, LAYOUT)
    with (
        captured(model, {site.module for site in sites}) as seen,
        collect_grams(model, LAYOUT, precision="float64") as collector,
    ):
        expert_inputs.run(model, ids, mask, image, expert_inputs.parse(passed), collector)
        for site in sites:
            calls = [x[keep[x.shape[1]]] for x in seen[site.module]]
            assert collector.counts[site.key] == sum(map(len, calls))
            if calls:
                assert error_of(collector.triangle(site.key), torch.cat(calls)) < 1e-14


def test_what_each_pass_feeds(golden: Golden) -> None:
    model, inputs = golden
    ids, mask, image = golden_inputs(inputs)
    num_text, num_image, batch = int(mask.sum()), model.config.num_image_tokens * len(image), {}
    for name in ("image", "text", "itc", "joint", "all"):
        with collect_grams(model, LAYOUT) as collector:
            expert_inputs.run(model, ids, mask, image, expert_inputs.parse(name), collector)
        batch[name] = {
            (expert, layer): collector.counts[f"transformer.blocks.{layer}.mlp.{expert}.fc1.weight"]
            for expert, layer in (("v", 0), ("v", 11), ("l", 0), ("l", 11), ("vl", 11))
        }
    v, l, both = num_image, num_text, num_image + num_text  # noqa: E741
    assert list(batch["image"].values()) == [v, v, 0, 0, 0]
    assert list(batch["text"].values()) == [0, 0, l, l, 0]
    assert list(batch["itc"].values()) == [v, 0, l, 0, both]
    assert list(batch["joint"].values()) == [v, 0, l, 0, both]
    assert list(batch["all"].values()) == [v, v, l, l, 2 * both]


def test_only_what_is_per_expert(goldens: Path) -> None:
    model = VLModel.from_pretrained(goldens / "merge" / "custom_ffn_msa.safetensors", num_heads=2)
    assert {site.slot.name for site in find_sites(model, LAYOUT)} == {"mlp.fc1.weight", "mlp.fc2.weight"}
    norms = VLModel.from_pretrained(goldens / "merge" / "custom_ln_msa.safetensors", num_heads=2)
    with pytest.raises(LayoutError, match="no linear weight of an expert"):
        find_sites(norms, LAYOUT)


def test_joint_attention_below_the_top() -> None:
    torch.manual_seed(0)
    model = VLModel(preset("micro", architecture="custom-ffn", joint_below_fusion=True)).eval()
    ids, image = torch.randint(1, 32, (3, 6)), torch.randn(3, 3, 8, 8)
    mask = torch.arange(6)[None] < torch.tensor([[6], [4], [2]])
    with collect_grams(model, LAYOUT) as collector:
        expert_inputs.run(model, ids, mask, image, expert_inputs.PASSES, collector)
    assert collector.counts["transformer.blocks.0.mlp.l.fc1.weight"] == 2 * 12  # alone, and in the joint pass
    assert collector.counts["transformer.blocks.0.mlp.v.fc1.weight"] == 2 * 15
    assert collector.counts["transformer.blocks.3.mlp.vl.fc1.weight"] == 2 * (12 + 15)


@pytest.mark.parametrize("make", ["host", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 255, 300, 1100])
def test_sums_over_many_blocks(make: str, dtype: torch.dtype, width: int) -> None:
    """float32 products stay below 1e-7; narrower activations are widened first, which is exact."""
    draw = torch.Generator().manual_seed(width)
    mix = torch.randn(width, width, generator=draw) / width**0.5
    rows = (torch.randn(3000, width, generator=draw) @ mix + torch.rand(width, generator=draw)).to(dtype)
    sums: Sums = (
        HostSums({"a": width}, "float32", 2)
        if make == "host"
        else TorchSums({"a": width}, torch.device("cpu"), "float32")
    )
    for part in rows.split(700):
        sums.add("a", part)
    assert error_of(sums.triangle("a"), rows) < 1e-7
    sums.set("a", sums.triangle("a"))
    assert error_of(sums.triangle("a"), rows) < 1e-7
    sums.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [300, 1100])
def test_float64_products_go_straight_into_the_sums(
    dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that makes them as fast as others; rows in several parts."""
    monkeypatch.setattr(sums_room, "EXACT_ROWS", 512)
    rows = torch.randn(3000, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    sums = TorchSums({"a": width}, torch.device("cpu"), "float64")
    for part in rows.split(700):
        sums.add("a", part)
    assert error_of(sums.triangle("a"), rows) < 1e-14


def test_the_number_of_workers_changes_no_byte() -> None:
    rows = torch.randn(9000, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for workers in (1, 2, 5):
        sums = HostSums({"a": 64, "b": 64}, "float32", workers)
        for part in rows.split(333):
            sums.add("a", part)
            sums.add("b", part * 2)
        found.append((sums.triangle("a").tobytes(), sums.triangle("b").tobytes()))
        sums.close()
    assert found[0] == found[1] == found[2]


def test_autocast_does_not_reach_the_products() -> None:
    rows = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    sums = TorchSums({"a": 32}, torch.device("cpu"), "float32")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums.add("a", rows)
    assert error_of(sums.triangle("a"), rows) < 1e-7


def test_later_changes_to_an_input_have_no_effect() -> None:
    """A residual added in place, for example, after the layer has read its input."""
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    kept = rows.clone()
    sums = HostSums({"a": 8}, "float64", 1)
    sums.add("a", rows)
    rows.zero_()
    assert error_of(sums.triangle("a"), kept) < 1e-13  # two orders of addition; rows that were zeroed would give 1
    sums.close()


class Pair(nn.Module):
    """Two experts with q, k and v apart; their input arrives by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({e: nn.ModuleDict(self.parts()) for e in "ab"}) for _ in range(2)])

    @staticmethod
    def parts() -> nn.ModuleDict:
        return nn.ModuleDict({name: nn.Linear(6, 6, bias=False) for name in "qkv"})

    def forward(self, x: Tensor, y: Tensor) -> None:
        for block in self.blocks:
            for name in "qkv":
                block["a"][name](input=x)
                block["b"][name](input=y)


PAIR = {
    "name": "pair",
    "experts": {"v": "a", "l": "b"},
    "blocks": "blocks.{layer}.",
    "slots": {
        "q.weight": {"from": "{expert}.q.weight", "kind": "linear"},
        "k.weight": {"from": "{expert}.k.weight", "kind": "linear", "same_input_as": "q.weight"},
        "v.weight": {"from": "{expert}.v.weight", "kind": "linear", "same_input_as": "q.weight"},
    },
}


@pytest.fixture
def pair() -> tuple[Pair, Layout]:
    torch.manual_seed(0)
    return Pair(), from_mapping(PAIR)


def test_slots_with_one_input_share_a_gram(pair: tuple[Pair, Layout]) -> None:
    model, layout = pair
    x, y = torch.randn(4, 5, 6), torch.randn(4, 3, 6)
    with collect_grams(model, layout) as collector:
        model(x, y)
    assert set(collector.counts) == {f"blocks.{i}.{e}.q.weight" for i in range(2) for e in "ab"}
    assert collector.counts["blocks.0.a.q.weight"] == 20
    assert collector.counts["blocks.1.b.q.weight"] == 12


def test_a_mask_that_does_not_fit(pair: tuple[Pair, Layout]) -> None:
    model, layout = pair
    x, y = torch.randn(4, 5, 6), torch.randn(4, 3, 6)
    with (
        pytest.raises(MergeError, match=r"mask of expert l is \(4, 5\).* q.weight of expert l is \(4, 3, 6\)"),
        collect_grams(model, layout) as collector,
        collector.tokens(l=torch.ones(4, 5)),
    ):
        model(x, y)
    with (
        pytest.raises(UsageError, match="no expert 'text'"),
        collect_grams(model, layout) as collector,
        collector.tokens(text=None),
    ):
        pass
    with collect_grams(model, layout, include_padding=True) as collector, collector.tokens(l=torch.ones(4, 5)):
        model(x, y)
    assert collector.counts["blocks.0.b.q.weight"] == 12


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(pair: tuple[Pair, Layout], value: float) -> None:
    model, layout = pair
    x = torch.randn(4, 5, 6)
    x[2, 3, 1] = value
    with (
        pytest.raises(MergeError, match=r"input of blocks.0.a.q.weight is not finite") as caught,
        collect_grams(model, layout),
    ):
        model(x, x[:, :3])
    assert "layer 0 q.weight of expert v" in str(caught.value)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[2, 3] = False  # padding may hold anything
    with collect_grams(model, layout) as collector, collector.tokens(v=mask):
        model(x, torch.randn(1, 1, 6))


def test_a_layout_that_names_no_module(pair: tuple[Pair, Layout]) -> None:
    model, _ = pair
    slots = {"q.weight": {"from": "{expert}.q.weight", "kind": "linear", "gram": "{expert}.qq"}}
    with pytest.raises(LayoutError, match=r"no module blocks.0.a.qq") as caught:
        find_sites(model, from_mapping({**PAIR, "slots": slots}))
    assert "blocks.0.a.q" in caught.value.fix


def test_hooks_are_gone_afterwards(pair: tuple[Pair, Layout]) -> None:
    model, layout = pair
    with pytest.raises(ZeroDivisionError), collect_grams(model, layout) as collector:
        raise ZeroDivisionError
    model(torch.randn(1, 2, 6), torch.randn(1, 2, 6))
    assert not any(collector.counts.values())


def test_saved_with_the_checkpoint_it_belongs_to(pair: tuple[Pair, Layout], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, layout = pair
    save_file(model.state_dict(), tmp_path / "pair.safetensors")
    x, y = torch.randn(4, 5, 6), torch.randn(4, 3, 6)
    with collect_grams(model, layout) as collector:
        model(x, y)
    collector.save(tmp_path / "pair.grams.safetensors", checkpoint=tmp_path / "pair.safetensors", data=["made up"])
    with (
        open_checkpoint(tmp_path / "pair.grams.safetensors") as grams,
        open_checkpoint(tmp_path / "pair.safetensors") as weights,
    ):
        about = grams.about()
        assert about["checkpoint"] == weights.fingerprint()
        assert about["data"] == ["made up"]
        assert about["tokens"] == collector.counts
        triangle = np.frombuffer(grams.read("blocks.1.b.q.weight"))
    assert error_of(triangle, y.reshape(-1, 6)) < 1e-7
