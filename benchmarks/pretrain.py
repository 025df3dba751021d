"""Speed of pre-training: samples a second of ``small`` and ``base``, the share of time spent waiting for data,
and the operations a second as a share of this machine's rate for matrix products.

    python -m benchmarks.pretrain [small] [base]

Operations are counted by PyTorch's own counter over one whole step (forward and backward).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import RESULTS, machine
from vlmerge_cli import console, devices, records
from vlmerge_cli.data import tokenizer
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.records import Record
from vlmerge_cli.training.optim import make_optimizer
from vlmerge_cli.training.pretrain import PretrainStep
from vlmerge_cli.training.pretrain_config import AUGMENTS, load
from vlmerge_cli.weights.vlmodel import VLModel


@dataclass(frozen=True)
class Work:
    """A preset, its batch and how many steps are timed after two that warm up."""

    model: str
    batch_size: int
    num_steps: int
    num_images: int


WORK = {"small": Work("small", 64, 30, 512), "base": Work("base", 4, 3, 32)}


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a square product, the best of some."""
    x = torch.randn(2048, 2048, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        start = now(device)
        x @ x
        best = min(best, now(device) - start)
    return float(2 * 2048**3 / best)


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(name: str, work: Work, device: str) -> None:
    given = {"model": work.model, "batch_size": work.batch_size, "tokenizer": "bundled"}
    config = load(None, given, [f"shapes.train={work.num_images}", "shapes.val=8", "shapes.test=8"])
    if config.threads and device == "cpu":
        torch.set_num_threads(config.threads)
    words = tokenizer.load(config.tokenizer, 40 if name == "base" else 20)
    model = VLModel(config.model_of("specific", words.size)).to(device)
    step = PretrainStep(model, config.objectives, 0)
    optimizer = make_optimizer(step, config.optimizer)
    shapes = ShapesOptions(**{"image_px": model.config.image_px, **config.shapes})
    data = open_data(["shapes"], "pairs", "train", BadSamples(), shapes=shapes)
    form = Form(model.config.image_px, words, AUGMENTS[config.augment], config.objectives.mask_ratio)
    batches = Loader(data, form, work.batch_size, num_workers=0, device=device).steps()

    with FlopCounterMode(display=False) as counter:
        train(step, optimizer, next(batches))
    train(step, optimizer, next(batches))
    waiting, start = 0.0, now(device)
    for _ in range(work.num_steps):
        before = now(device)
        batch = next(batches)
        waiting += now(device) - before
        train(step, optimizer, batch)
    seconds = (now(device) - start) / work.num_steps
    rate = matrix_rate(device, torch.float32)
    values = {
        "samples_per_second": round(work.batch_size / seconds, 2),
        "seconds_per_step": round(seconds, 4),
        "data_ratio": round(waiting / work.num_steps / seconds, 4),
        "operations_per_step": counter.get_total_flops(),
        "matrix_rate_ratio": round(counter.get_total_flops() / seconds / rate, 4),
        "matrix_rate": round(rate / 1e9, 1),
    }
    at = {"row": name, "batch_size": work.batch_size, "image_px": model.config.image_px, "device": device}
    at |= {"threads": torch.get_num_threads(), "augment": config.augment, **machine()}
    records.append(RESULTS / "pretrain.jsonl", Record("pretrain", at, values))
    console.say(f"{name}: {values}")


def train(step: PretrainStep, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    loss, _ = step(batch, 0.0)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    where = "cuda" if devices.has_gpu() else "cpu"
    for each in sys.argv[1:] or WORK:
        measure(each, WORK[each], where)
