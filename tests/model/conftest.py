from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vlmerge_cli.model.config import HEADS, ModelConfig, preset
from vlmerge_cli.weights.vlmodel import VLModel

FIVE = ("specific", "custom-attn", "custom-ffn", "custom-ln", "agnostic")


class Batch(NamedTuple):
    ids: Tensor  # (B, T)
    mask: Tensor  # (B, T)
    image: Tensor  # (B, 3, px, px)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def micro(architecture: str = "specific", **changes: object) -> ModelConfig:
    return preset("micro", architecture=architecture, **{"heads": HEADS, **changes})


def build(config: ModelConfig, seed: int = 0) -> VLModel:
    """A model in which every parameter does something: nothing is 0 or 1 as it would be at the start."""
    torch.manual_seed(seed)
    model = VLModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def batch(config: ModelConfig, size: int = 3, seed: int = 0) -> Batch:
    """Random input; texts of different lengths."""
    draw = torch.Generator().manual_seed(seed)
    room = config.max_text_tokens
    ids = torch.randint(1, config.vocab_size, (size, room), generator=draw)
    lengths = room - torch.arange(size) % (room - 1)
    mask = torch.arange(room)[None] < lengths[:, None]
    return Batch(ids * mask, mask, torch.randn(size, 3, config.image_px, config.image_px, generator=draw))


def every_output(model: VLModel, inputs: Batch) -> dict[str, Tensor]:
    """What every pass and every head of a model says."""
    text, image = model.text(inputs.ids, inputs.mask), model.image(inputs.image)
    joint, second = model.fuse(text, image), model.fuse(text, model.image(inputs.image, second=True))
    return {
        "text alone": model.alone(text), "image alone": model.alone(image),
        "text by vl": model.alone(text, "vl"), "image by vl": model.alone(image, "vl"),
        "joint text": joint.text, "joint image": joint.image,
        "itc text": model.features(text), "itc image": model.features(image),
        "itc text second": model.features(text, second=True),
        "itc image second": model.features(image, second=True),
        "itm": model.itm(joint), "mlm": model.mlm(joint.text), "vqa": model.vqa(joint),
        "nlvr2": model.nlvr2(joint, second), "classification": model.classify(image),
        "segmentation": model.segment(image),
    }  # fmt: skip


def loss_of(outputs: dict[str, Tensor]) -> Tensor:
    """Some number that depends on every output."""
    return sum((x.float() * torch.linspace(-1, 1, x.numel()).to(x.device).view_as(x)).sum() for x in outputs.values())
