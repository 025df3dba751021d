"""Grams of models that are not ours: the example of docs/grams.md, run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.grams.test_collector import captured, error_of
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.grams.collector import collect_grams, find_sites
from vlmerge_cli.layouts.layout import Layout, load
from vlmerge_cli.merging import merge, opening
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods.regmean import RegMean


@pytest.fixture
def layout(request: pytest.FixtureRequest) -> Layout:
    return load(Path(__file__).parents[2] / "fixtures" / "layouts" / f"{request.param}.yaml")


def merged(folder: Path, model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """What `vlmerge merge model.safetensors --method regmean --gamma 1 --layout layout.yaml` gives."""
    inputs = opening.Inputs(str(folder / "model.safetensors"), layout=layout)
    with opening.prepared(inputs, RegMean(gamma=0.99), Request()) as ready:
        merge.run(ready, Target(folder / "merged.safetensors"), merge.Settings(device="cpu"), lambda _: None)
    return load_file(folder / "merged.safetensors")


def closed_form(model: nn.Module, inputs: dict[str, list[Tensor]], weights: dict[str, str]) -> Tensor:
    """(Σ Wᵐ G̃ᵐ)(Σ G̃ᵐ)⁻¹ with gamma 0.99, written out; module whose input it is -> its weight's key."""
    state, right, system = model.state_dict(), 0.0, 0.0
    for module, key in weights.items():
        x = torch.cat([part.reshape(-1, part.shape[-1]) for part in inputs[module]]).double()
        gram = 0.99 * x.T @ x + 0.01 * torch.diag((x * x).sum(dim=0))
        right, system = right + state[key].double() @ gram, system + gram
    return torch.linalg.solve(system, right, left=False)


@pytest.mark.parametrize("layout", ["flava"], indirect=True)
def test_flava_of_transformers(layout: Layout, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.FlavaConfig(
        image_config={**sizes, "image_size": 16, "patch_size": 8}, text_config={**sizes, "vocab_size": 40},
        multimodal_config=sizes, hidden_size=16, projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.FlavaForPreTraining(config).eval()
    state = {key: value.clone() for key, value in model.state_dict().items() if "codebook" not in key}
    save_file(state, tmp_path / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(6)[None] < torch.tensor([[6], [3], [4]])
    batches = [
        {
            "pixel_values": torch.randn(3, 3, 16, 16, generator=draw),
            "input_ids": torch.randint(1, 40, (3, 6), generator=draw),
            "attention_mask": mask,
        }
        for _ in range(2)
    ]

    sites = {site.module for site in find_sites(model, layout)}
    with captured(model, sites) as seen, collect_grams(model, layout) as collector:
        for batch in batches:
            with collector.tokens(l=batch["attention_mask"]):
                model.flava(**batch)
    collector.save(tmp_path / "model.grams.safetensors", checkpoint=tmp_path / "model.safetensors")

    assert len(sites) == 2 * 2 * 4  # layers, encoders; q, k and v share one
    name = "flava.text_model.encoder.layer.1.intermediate.dense"
    rows = torch.cat([x[mask] for x in seen[name]])
    assert collector.counts[f"{name}.weight"] == len(rows) == 2 * 13
    assert error_of(collector.triangle(f"{name}.weight"), rows) < 1e-7
    out = merged(tmp_path, model, layout)
    assert not any(".text_model.encoder.layer" in key or ".image_model.encoder.layer" in key for key in out)
    text = {name: [x[mask] for x in calls] if "text_model" in name else calls for name, calls in seen.items()}
    part = "encoder.layer.1.attention.attention"
    for kind in ("query", "value"):
        keys = {f"flava.{e}.{part}.query": f"flava.{e}.{part}.{kind}.weight" for e in ("image_model", "text_model")}
        found = out[f"flava.merged_model.{part}.{kind}.weight"].double()
        assert torch.allclose(found, closed_form(model, text, keys), atol=1e-6)


class Multiway(nn.Module):
    """Rows up to ``split`` of a sequence go through A, the rest through B, as in torchscale."""

    def __init__(self, make: object) -> None:
        super().__init__()
        self.A, self.B = make(), make()  # type: ignore[operator]

    def forward(self, x: Tensor, split: int) -> Tensor:
        return torch.cat([self.A(x[:, :split]), self.B(x[:, split:])], dim=1)


class Ffn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parts = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({name: Multiway(lambda: nn.Linear(8, 8, bias=False)) for name in parts})
        self.norm, self.ffn = Multiway(lambda: nn.LayerNorm(8)), Multiway(Ffn)

    def forward(self, x: Tensor, split: int) -> Tensor:
        q, k, v = (self.self_attn[name](x, split) for name in ("q_proj", "k_proj", "v_proj"))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.self_attn["out_proj"](y, split)
        return x + self.ffn(self.norm(x, split), split)


class Beit3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([Layer(), Layer()])})

    def forward(self, x: Tensor, split: int) -> Tensor:
        for layer in self.encoder["layers"]:
            x = layer(x, split)
        return x


@pytest.mark.parametrize("layout", ["multiway"], indirect=True)
def test_multiway_as_in_beit3(layout: Layout, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Beit3()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    images, texts = torch.randn(5, 4, 8), torch.randn(5, 3, 8)
    mask = torch.arange(3)[None] < torch.tensor([[3], [1], [2], [3], [3]])

    sites = {site.module for site in find_sites(model, layout)}
    with captured(model, sites) as seen, collect_grams(model, layout) as collector:
        for _ in range(2):
            with collector.tokens(l=mask):
                model(torch.cat([images, texts], dim=1), split=4)
    collector.save(tmp_path / "model.grams.safetensors", checkpoint=tmp_path / "model.safetensors")

    assert len(sites) == 2 * 2 * 4
    assert collector.counts["encoder.layers.1.ffn.A.fc2.weight"] == 2 * 20
    assert collector.counts["encoder.layers.1.ffn.B.fc2.weight"] == 2 * 12
    out = merged(tmp_path, model, layout)
    kept = {name: [x[mask] for x in calls] if ".B" in name else calls for name, calls in seen.items()}
    for kind, of in (("self_attn.v_proj.{}", "self_attn.q_proj.{}"), ("ffn.{}.fc2", "ffn.{}.fc2")):
        weights = {f"encoder.layers.1.{of.format(e)}": f"encoder.layers.1.{kind.format(e)}.weight" for e in "AB"}
        found = out[f"encoder.layers.1.{kind.format('').replace('..', '.').rstrip('.')}.weight"].double()
        assert np.allclose(found, closed_form(model, kept, weights), atol=1e-6)
