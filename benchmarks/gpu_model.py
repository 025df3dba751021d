"""Training and collecting Grams with the `base` model on a GPU, as a share of the best matrix rate seen beside them.

    python -m benchmarks.gpu_model training|grams [DEVICE]

Training: whole steps of pre-training (ITC, ITM, MLM, forward, backward, AdamW) on batches that are on the device, so
that loading does not count; how fast the loader gives such batches stands beside. Grams: batches through all passes,
alone and with every Gram. Operations of the passes are PyTorch's own count of one step, those of Grams one triangle
each; on a CPU the model is small and so are the batches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import gpu_of, turns
from benchmarks.harness import WORK, save, spread
from vlmerge_cli import console, devices
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.data import tokenizer
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.data.transforms import PUBLISHED
from vlmerge_cli.grams import expert_inputs
from vlmerge_cli.grams.collector import Collector, collect_grams
from vlmerge_cli.grams.from_data import Choices, gather
from vlmerge_cli.layouts.layout import built_in
from vlmerge_cli.model.config import PRETRAINING_HEADS, preset
from vlmerge_cli.training.optim import make_optimizer
from vlmerge_cli.training.parallel import parallelize
from vlmerge_cli.training.pretrain import PretrainStep
from vlmerge_cli.training.pretrain_config import Objectives, Optimizer
from vlmerge_cli.training.run_folder import save_model
from vlmerge_cli.weights.vlmodel import VLModel

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WIDE = {**TYPES, "float64": torch.float64}
#: The model of a rehearsal.
SMALL = {
    "width": 32, "num_heads": 2, "ffn_width": 64, "num_layers": 2, "fusion_layer": 1, "image_px": 32, "vocab_size": 256,
}  # fmt: skip
NUM_STEPS, NUM_BATCHES = 8, 4
STARTED = time.strftime("%Y-%m-%dT%H:%M:%S")


def small(device: str) -> bool:
    return device == "cpu"


def model_of(device: str) -> VLModel:
    torch.manual_seed(0)
    size = SMALL if small(device) else {}
    return VLModel(preset("base", architecture="specific", heads=PRETRAINING_HEADS, **size)).to(device)


def loader_of(model: VLModel, batch_size: int, num_workers: int, device: str) -> Loader:
    px, words = model.config.image_px, tokenizer.load("bundled", model.config.max_text_tokens)
    shapes = ShapesOptions(image_px=px, train=64 if small(device) else 1024, val=8, test=8)
    data = open_data(["shapes"], "pairs", "train", BadSamples(), shapes=shapes)
    return Loader(data, Form(px, words, PUBLISHED, 0.15), batch_size, num_workers=num_workers, device=device)


def matrix_rate(device: str, precision: str) -> float:
    width = 256 if small(device) else 8192
    a, b = (torch.randn(width, width, device=device, dtype=WIDE[precision]) for _ in range(2))
    return 2 * width**3 / min(turns(lambda: torch.mm(a, b), device))


def training(device: str) -> None:
    batches = batches_of(model_of(device), device)
    for precision, num, compiled in (
        ("bfloat16", 1, False), ("bfloat16", 4, False), ("float32", 1, False), ("bfloat16", 4, True),
    )[: 3 if small(device) else 4]:  # fmt: skip
        batch = joined(batches[:num])
        work = f"batch {len(batch)}, {precision}{', compiled' if compiled else ''}"
        try:
            values = train(device, precision, batch, compiled)
        except torch.OutOfMemoryError:
            console.say(f"{work}: out of memory")
            continue
        keep("gpu-training", work, "step", values, device)


def batches_of(model: VLModel, device: str) -> list[Batch]:
    """On the device, augmented; how fast the loader gives them is a row of its own."""
    workers, size = min(12, devices.num_cpus()), 8 if small(device) else 64
    given = loader_of(model, size, workers, device).steps()
    batches = [next(given) for _ in range(NUM_BATCHES)]
    walls = turns(lambda: next(given), device, 3 * NUM_STEPS)
    values = {**spread(walls), "samples_per_second": round(size * len(walls) / sum(walls), 1)}
    keep("gpu-training", "loader", f"batches of {size}, {workers} workers", values, device)
    return batches


def train(device: str, precision: str, batch: Batch, compiled: bool) -> dict[str, Any]:
    torch.compiler.reset()
    model = model_of(device).train()
    step = PretrainStep(model, Objectives(), 0)
    optimizer = make_optimizer(step, Optimizer())

    def one(into: Callable[..., Any]) -> None:
        with autocast(device, precision):
            loss, _ = into(batch, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        one(step)
    started = time.perf_counter()
    ready = parallelize(step, model, parallel="ddp", recompute=False, compiled=compiled)
    for _ in range(1 if small(device) else 3):  # the second step may compile once more
        one(ready)
    taken = time.perf_counter() - started
    walls = turns(lambda: one(ready), device, NUM_STEPS)
    values = {
        **rated(walls, len(batch), counter.get_total_flops(), matrix_rate(device, precision)),
        "warm_up_seconds": round(taken, 1),
        "peak_gb": 0.0 if small(device) else round(torch.cuda.max_memory_allocated() / 1e9, 1),
    }
    if not small(device):
        torch.cuda.reset_peak_memory_stats()
    return values


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several."""
    tensors = {
        name: torch.cat([getattr(batch, name) for batch in batches])
        for name, value in vars(batches[0]).items()
        if isinstance(value, torch.Tensor)
    }
    keys = tuple(key for batch in batches for key in batch.keys)
    return Batch(keys, problems=(), **tensors)


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.partition(":")[0], torch.bfloat16)


def grams(device: str) -> None:
    model, size = model_of(device).eval(), 8 if small(device) else 128
    batch = next(loader_of(model, size, 0, device).steps())
    assert batch.text is not None
    assert batch.text_mask is not None
    assert batch.image is not None
    text, mask, image = batch.text, batch.text_mask, batch.image
    num_tokens = len(batch) * model.config.num_image_tokens + int(mask.sum())
    nobody = Collector([], None, True, ())  # type: ignore[arg-type]
    for precision in TYPES:
        model.to(TYPES[precision])
        pixels = image.to(TYPES[precision])

        def one(into: Collector, pixels: torch.Tensor = pixels) -> None:
            expert_inputs.run(model, text, mask, pixels, expert_inputs.PASSES, into)

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            one(nobody)
        passes, rate = counter.get_total_flops(), matrix_rate(device, precision)
        best = max(matrix_rate(device, name) for name in ("float32", "float64"))  # of what sums are made in
        with torch.no_grad():
            walls = turns(lambda one=one: one(nobody), device, NUM_STEPS)
        keep("gpu-grams", precision, "passes alone", rated(walls, num_tokens, passes, rate), device)
        with collect_grams(model, built_in("vl-merging"), threads=1) as collector:
            one(collector)
            sums = sum(count * site.width * (site.width + 1)
                       for key, site in collector.sites.items() for count in [collector.counts[key]])  # fmt: skip
            walls = turns(lambda one=one, into=collector: one(into), device, NUM_STEPS)
        values = rated(walls, num_tokens, passes, rate)
        values["share_of_limit"] = (passes / rate + sums / best) / values["wall_seconds"]
        keep("gpu-grams", precision, "with every Gram", values, device)
    whole_command(device)


def whole_command(device: str) -> None:
    """As ``vlmerge grams`` does it: read, decoded, run and written, from the built-in data set."""
    model, folder = model_of(device), WORK / "gram-model"
    words = tokenizer.load("bundled", model.config.max_text_tokens)
    px, number = model.config.image_px, 64 if small(device) else 2048
    model = VLModel(model.config.change(vocab_size=words.size))
    shapes = {"image_px": px, "train": number, "val": 8, "test": 8}
    save_model(model, folder, {"tokenizer": "bundled", "run": {"shapes": shapes, "data": ["shapes"]}}, words)
    choices = Choices(
        ("shapes",), num_examples=number, batch_size=64, device=device, num_workers=min(12, devices.num_cpus())
    )
    path = WORK / "gpu.grams.safetensors"
    gather(str(folder), Target(path, force=True), Choices(**{**vars(choices), "num_examples": 8}))
    for number_of_pairs in (number // 2, number):
        own = Choices(**{**vars(choices), "num_examples": number_of_pairs})
        walls = turns(lambda own=own: gather(str(folder), Target(path, force=True), own), device, 1)
        values = {**spread(walls), "samples_per_second": round(number_of_pairs / walls[0], 1)}
        keep("gpu-grams", "whole command", f"{number_of_pairs} pairs", values, device)


def rated(walls: Sequence[float], count: int, operations: int, rate: float) -> dict[str, Any]:
    found = spread(walls)
    return {
        **found,
        "samples_per_second": round(count / found["wall_seconds"], 1),
        "operations": operations,
        "matrix_tflops": round(rate / 1e12, 2),
        "share_of_limit": operations / rate / found["wall_seconds"],
    }


def keep(kind: str, work: str, row: str, values: dict[str, Any], device: str) -> None:
    share = values.get("share_of_limit")
    console.say(
        f"{work}: {row} {values['wall_seconds']:.4f} s, {values['samples_per_second']} a second"
        + (f", {share:.0%} of the matrix rate" if share else "")
    )
    save(kind, {row: values}, {"work": work, "gpu": gpu_of(device), "run": STARTED})


if __name__ == "__main__":
    part = {"training": training, "grams": grams}[sys.argv[1]]
    part(sys.argv[2] if len(sys.argv) > 2 else "cuda" if devices.has_gpu() else "cpu")
