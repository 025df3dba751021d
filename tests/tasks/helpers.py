"""A tiny model and a tiny batch for the objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace

import torch

from tests.model.conftest import build, micro
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.order import Place
from vlmerge_cli.data.prepare import Prepare, finished
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.steps.keyed_random import Noise
from vlmerge_cli.steps.passes import Passes
from vlmerge_cli.weights.vlmodel import VLModel

HEADS = ("itc", "itm", "mlm")


def model(architecture: str = "specific", **changes: object) -> VLModel:
    return build(micro(architecture, heads=HEADS, drop_path=0.0, dropout=0.0, **changes)).double()


def batch(size: int = 5, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(5, 32, (size, 6), generator=draw)
    mask = torch.arange(6)[None] < torch.tensor([6, 4, 3, 5, 6, 2, 4, 6])[:size, None]
    text = text * mask
    labels = torch.full_like(text, -100)
    labels[:, 1] = text[:, 1]
    masked = text.clone()
    masked[:, 1] = 4
    return Batch(
        keys=tuple(f"s{n}" for n in range(size)),
        row=torch.arange(100, 100 + size),
        index=torch.arange(size),
        valid=torch.ones(size, dtype=torch.bool),
        image=torch.randn(size, 3, 8, 8, generator=draw).double(),
        image_id=torch.arange(size),
        text=text,
        text_mask=mask,
        masked_text=masked,
        masked_labels=labels,
    )


def passes(of: VLModel, data: Batch, progress: float = 1.0) -> Passes:
    return Passes(of, data, Noise(0, data.row), progress)


def one_by_one(asked: Evaluation, see: Callable[[VLModel, Batch], torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model says of each sample alone, by the sample's key: nothing in common with how scores are made."""
    found = {}
    prepare = Prepare(asked.data, asked.form, 0, training=False)
    for number in range(len(asked.data)):
        batch = finished(prepare([Place(number, 0, number)])).double()
        with torch.no_grad():
            found[f"{batch.keys[0]}"] = see(asked.model.eval(), batch)[0]
    return found
