"""The walk: streams are the models' own passes, every layer repairs, stopped and resumed it is the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.model.conftest import build, micro
from tests.tasks.helpers import batch
from vlmerge_cli.errors import UsageError
from vlmerge_cli.layerwise.streams import Streams, opened
from vlmerge_cli.layerwise.walk import Settings, Walk
from vlmerge_cli.steps.distillation import Shares, distillation
from vlmerge_cli.weights.vlmodel import VLModel

DEFAULT = Settings()
ARCHITECTURES = ("specific", "custom-attn", "custom-ffn", "custom-attn-ln", "custom-ffn-ln")


def models(architecture: str = "specific", **changes: object) -> tuple[VLModel, VLModel]:
    """A model whose experts differ and its plain average."""
    torch.manual_seed(0)
    common = {"heads": ("itc", "mlm"), "drop_path": 0.0, "dropout": 0.0, **changes}
    teacher = build(micro(architecture, **common)).double().eval()
    merged = build(teacher.config.merged()).double().eval()
    own = teacher.state_dict()
    for key, value in merged.state_dict().items():
        if key in own:
            value.copy_(own[key])
        else:
            head, _, tail = key.rpartition(".")
            named = [f"{head}.{e}.{tail}" for e in ("v", "l", "vl")] + [
                key.replace(part, f"{part}.{e}") for part in ("attn", "mlp", "norm1", "norm2") for e in ("v", "l", "vl")
            ]
            found = [own[name] for name in dict.fromkeys(named) if name in own]
            assert found, key
            value.copy_(sum(found) / len(found))
    return teacher, merged


def blocks(teacher: VLModel, num: int = 6, size: int = 8) -> Iterator[Streams]:
    for seed in range(num):
        data = batch(size, seed)
        yield opened(teacher, data.text, data.text_mask, data.image)  # type: ignore[arg-type]


def walked(teacher: VLModel, merged: VLModel, folder: Path, settings: Settings = DEFAULT) -> VLModel:
    result = copy.deepcopy(merged)
    Walk(teacher, result, folder, settings, {}).run(lambda: blocks(teacher), lambda _: None)
    assert not folder.exists()
    return result


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_merged_model_comes_closer_on_inputs_it_has_not_seen(architecture: str, tmp_path: Path) -> None:
    teacher, merged = models(architecture)
    found = walked(teacher, merged, tmp_path / "work")
    unseen = batch(8, seed=99)
    with torch.no_grad():
        before, after = (distillation(model, teacher, unseen, Shares())[0] for model in (merged, found))
    assert after < 0.6 * before


def test_equal_experts_stay_what_they_are(tmp_path: Path) -> None:
    agnostic = build(micro("agnostic", heads=("itc",), drop_path=0.0)).double().eval()
    teacher = build(micro("specific", heads=("itc",), drop_path=0.0)).double().eval()
    own = agnostic.state_dict()
    for key, value in teacher.state_dict().items():
        for expert in ("v", "l", "vl"):
            key = key.replace(f".{expert}.", ".")
        value.copy_(own[key])
    found = walked(teacher, agnostic, tmp_path / "work")
    for key, value in found.state_dict().items():
        torch.testing.assert_close(value, own[key], atol=1e-7, rtol=1e-6)


def test_streams_end_where_the_models_passes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, merged = models()
    seen: dict[str, torch.Tensor] = {}
    store = Walk._store

    def watch(self: Walk, at: object, made: Iterator[dict[str, torch.Tensor]]) -> None:
        store(self, at, made)  # type: ignore[arg-type]
        if at == teacher.config.num_layers:
            from safetensors.torch import load_file

            seen.update(load_file(self._place(at) / "000000.safetensors"))

    monkeypatch.setattr(Walk, "_store", watch)
    result = walked(teacher, merged, tmp_path / "work")
    data = batch(8, 0)
    for model, what in ((teacher, "expert"), (result, "merged")):
        text, image = model.text(data.text, data.text_mask), model.image(data.image)
        joint = model.fuse(text, image)
        ends = {
            "text": model.alone(text), "image": model.alone(image), "text by vl": model.alone(text, "vl"),
            "image by vl": model.alone(image, "vl"), "joint": torch.cat([joint.text, joint.image], dim=1),
        }  # fmt: skip
        for name, end in ends.items():
            torch.testing.assert_close(model.transformer.norm(seen[f"{name}/{what}"]), end)


def test_stopped_after_any_layer_it_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, merged = models()
    whole = walked(teacher, merged, tmp_path / "work").state_dict()
    finish = Walk._finish
    for stop in range(teacher.config.num_layers):

        def stopping(self: Walk, layer: int, stop: int = stop) -> None:
            if layer == stop:
                raise KeyboardInterrupt
            finish(self, layer)

        folder = tmp_path / f"stopped-{stop}"
        monkeypatch.setattr(Walk, "_finish", stopping)
        with pytest.raises(KeyboardInterrupt):
            walked(teacher, merged, folder)
        monkeypatch.undo()
        again = walked(teacher, merged, folder).state_dict()
        assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_other_settings_do_not_go_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, merged = models()
    layer = Walk._layer

    def stopping(self: Walk, number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt
        layer(self, number)

    monkeypatch.setattr(Walk, "_layer", stopping)
    with pytest.raises(KeyboardInterrupt):
        walked(teacher, merged, tmp_path / "work")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="an interrupted merge with other settings"):
        walked(teacher, merged, tmp_path / "work", Settings(ridge=1e-3))
