"""How far everything that runs on a GPU is from the CPU's numbers, with a bound for each.

    python -m benchmarks.agree [PART ...]

A small model on the built-in data set: its Grams, every method and distance, a merge layer by layer, a pre-training
step (loss, gradients, in each precision, compiled), some steps of distillation and of fine-tuning on every task. Apart
means: relative to the largest entry of each tensor (merges), to the norm (Grams, gradients, weights layer by layer), or
to the value (distances, losses).
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.gpu import gpu_of, largest_difference
from benchmarks.harness import save
from vlmerge_cli import console, devices, records
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.data import tokenizer
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.data.transforms import PUBLISHED
from vlmerge_cli.distances.measure import measure
from vlmerge_cli.grams.from_data import Choices, gather
from vlmerge_cli.layerwise.streams import opened
from vlmerge_cli.layerwise.walk import Settings, Walk
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.merging import merge
from vlmerge_cli.merging.opening import Inputs, prepared
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods import METHODS
from vlmerge_cli.methods.method import make
from vlmerge_cli.model.config import HEADS, preset
from vlmerge_cli.tasks import TASKS
from vlmerge_cli.training import distill, distill_config, finetune, finetune_config
from vlmerge_cli.training.parallel import parallelize
from vlmerge_cli.training.pretrain import PretrainStep
from vlmerge_cli.training.pretrain_config import Objectives
from vlmerge_cli.training.run_folder import save_model
from vlmerge_cli.training.start import look
from vlmerge_cli.weights.vlmodel import VLModel

SHAPES = {"image_px": 64, "train": 64, "val": 16, "test": 16}
WIDTH, REHEARSED_WIDTH, NUM_LAYERS, NUM_PAIRS, STEPS = 256, 16, 3, 64, 3
STARTED = time.strftime("%Y-%m-%dT%H:%M:%S")
METRICS = ("l2", "cosine", "ssd", "tssd")
#: What is compared, how far apart it is, how far it may be.
Row = tuple[str, float, float]


def main(names: list[str]) -> int:
    device = "cuda" if devices.has_gpu() else "cpu"
    parts = (grams, methods, distances, layer_by_layer, pretraining, distillation, finetuning)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width = WIDTH if device != "cpu" else REHEARSED_WIDTH
        make_model(folder / "model", "specific", 0, width)
        make_model(folder / "base", "agnostic", 1, width)
        for part in [part for part in parts if not names or part.__name__ in names]:
            try:
                for what, apart, bound in part(folder, device):
                    holds = apart <= bound
                    failed += not holds
                    console.say(f"{what}: {apart:.1e} apart, {bound:.0e} allowed{'' if holds else ': TOO FAR'}")
                    values = {"apart": apart, "bound": bound}
                    at = {"work": part.__name__.replace("_", " "), "gpu": gpu_of(device), "run": STARTED}
                    save("gpu-agreement", {what: values}, at)
            except Exception:
                traceback.print_exc()
                failed += 1
    return 1 if failed else 0


def make_model(folder: Path, architecture: str, seed: int, width: int) -> None:
    """Random experts that differ, as trained ones do."""
    words = tokenizer.load("bundled", 20)
    torch.manual_seed(seed)
    config = preset(
        "base", architecture=architecture, heads=HEADS[:3], vocab_size=words.size, image_px=64, width=width,
        num_heads=4, ffn_width=4 * width, num_layers=NUM_LAYERS, fusion_layer=NUM_LAYERS - 1, max_text_tokens=20,
        text_bias_tokens=20, drop_path=0.0, dropout=0.0, num_answers=30, num_classes=48,
    )  # fmt: skip
    model = VLModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_model(model, folder, {"tokenizer": "bundled", "run": {"shapes": SHAPES, "data": ["shapes"]}}, words)


def grams(folder: Path, device: str) -> Iterator[Row]:
    for precision, bound in (("float32", 1e-6), ("bfloat16", 1e-2), ("float64", 1e-12)):
        paths = {}
        for where in ("cpu", device):
            paths[where] = folder / f"{precision}-{where.replace(':', '')}.grams.safetensors"
            choices = Choices(("shapes",), num_examples=NUM_PAIRS, precision=precision, device=where)
            gather(str(folder / "model"), Target(paths[where], force=True), choices)
        yield f"Grams, {precision}", norm_difference(paths[device], paths["cpu"]), bound
    paths["cpu"].replace(folder / "model.grams.safetensors")  # where merges look for them


def norm_difference(one: Path, other: Path) -> float:
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    return max(relative(a[key], b[key]) for key in b)


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def methods(folder: Path, device: str) -> Iterator[Row]:
    for name in METHODS:
        method = make(name, {})
        inputs = Inputs(str(folder / "model"), str(folder / "base") if method.needs_base else None)
        outputs = []
        for where in ("cpu", device):
            outputs.append(folder / f"merged-{where.replace(':', '')}")
            with prepared(inputs, method, Request()) as ready:
                merge.run(ready, Target(outputs[-1], force=True, sync=False), merge.Settings(where), lambda _: None)
        here, there = outputs
        yield f"merge, {name}", largest_difference(there, here), 1e-6


def distances(folder: Path, device: str) -> Iterator[Row]:
    with open_checkpoint(str(folder / "model")) as opened:
        survey, _ = find(opened.tensors, None, "")
        there, here = (measure(opened, survey, ("v", "l"), device=where).whole for where in (device, "cpu"))
    for name in METRICS:
        yield f"distance, {name}", abs(getattr(there, name) / getattr(here, name) - 1), 1e-9


def batch() -> Batch:
    form = Form(64, tokenizer.load("bundled", 20), PUBLISHED, 0.25)
    data = open_data(["shapes"], "pairs", "train", BadSamples(), shapes=ShapesOptions(**SHAPES))
    return next(Loader(data, form, 16).steps())


def pretraining(folder: Path, device: str) -> Iterator[Row]:
    """One step's loss and gradients beside float64 on the CPU: how far the device is, and the CPU in that precision."""
    given = batch()
    truth = gradients(folder, given, "cpu", "float64")
    for precision, compiled in (("float64", False), ("float32", False), ("float32", True), ("bfloat16", False)):
        if device == "cpu" and (compiled or precision == "bfloat16"):
            continue  # slow there, and the same thing twice
        here = gradients(folder, given, "cpu", precision)
        there = gradients(folder, given, device, precision, compiled)
        what = f"pre-training, {precision}{', compiled' if compiled else ''}"
        least = {"float64": 1e-11, "float32": 1e-5, "bfloat16": 1e-3}[precision]
        for name, index in (("loss", 0), ("gradient", 1)):
            bound = max(least, 3 * relative(here[index], truth[index]))
            yield f"{what}, {name}", relative(there[index], truth[index]), bound


def gradients(folder: Path, given: Batch, device: str, precision: str, compiled: bool = False) -> list[torch.Tensor]:
    model = VLModel.from_pretrained(str(folder / "model")).to(device).train()
    step = PretrainStep(model, Objectives(hard_from=1.0, hard_full=1.0), 0)
    if precision == "float64":
        step.double()
    ready = parallelize(step, model, parallel="ddp", recompute=False, compiled=compiled)
    inputs = given.to(device)
    with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bfloat16"):
        loss, _ = ready(inputs.double() if precision == "float64" else inputs, 0.0)
    loss.backward()
    flat = torch.cat([p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None])
    return [loss.detach().double().cpu(), flat]


def layer_by_layer(folder: Path, device: str) -> Iterator[Row]:
    """Beside float64 on the CPU, as few pairs leave directions to the ridge, which multiplies what rounding does."""
    given = batch()
    truth, here = (walked(folder, given, "cpu", precision) for precision in (torch.float64, torch.float32))
    bound = 3 * relative(here, truth)
    yield "merge, layer by layer, float32", relative(walked(folder, given, device, torch.float32), here), bound
    yield "merge, layer by layer, float64", relative(walked(folder, given, device, torch.float64), truth), 1e-8


def walked(folder: Path, given: Batch, device: str, precision: torch.dtype) -> torch.Tensor:
    """All parameters of the small model after its layers were fitted on one batch."""
    teacher, merged = (
        VLModel.from_pretrained(str(folder / name)).to(device, precision).eval() for name in ("model", "base")
    )
    inputs = given.to(device)
    assert inputs.text is not None
    assert inputs.text_mask is not None
    assert inputs.image is not None
    block = opened(teacher, inputs.text, inputs.text_mask, inputs.image.to(precision))
    Walk(teacher, merged, folder / "walk", Settings(), {}).run(lambda: iter([block]))
    return torch.cat([parameter.detach().double().cpu().flatten() for parameter in merged.parameters()])


def distillation(folder: Path, device: str) -> Iterator[Row]:
    losses = {}
    for where in ("cpu", device):
        out = folder / f"distilled-{where.replace(':', '')}"
        given = {
            "checkpoint": str(folder / "model"), "data": ["shapes"], "steps": STEPS, "batch_size": 16,
            "start": str(folder / "base"), "num_examples": 48,
            "saving": {"every": STEPS, "validate_every": STEPS, "log_every": 1},
        }  # fmt: skip
        config = distill_config.load(look(folder / "model"), None, given, [])
        distill.distill(distill.Run(config, out, where), force=True)
        losses[where] = losses_of(out)
    yield "distillation", relative(losses[device], losses["cpu"]), 1e-4


def losses_of(run: Path) -> torch.Tensor:
    rows = [row for row in records.read(run / "metrics.jsonl") if row.kind == "train"]
    return torch.tensor([row.values["loss"] for row in rows], dtype=torch.float64)


def finetuning(folder: Path, device: str) -> Iterator[Row]:
    """The losses of some steps: the device's beside the CPU's."""
    for task in TASKS:
        losses = {}
        for where in ("cpu", device):
            out = folder / f"{task}-{where.replace(':', '')}"
            given = {
                "task": task, "checkpoint": str(folder / "model"), "data": ["shapes"], "steps": STEPS, "batch_size": 16,
                "saving": {"every": STEPS, "validate_every": STEPS, "log_every": 1}, "max_samples": 16,
                "optimizer": {"lr": 1e-5},
            }  # fmt: skip
            config = finetune_config.load(look(folder / "model"), None, given, [])
            finetune.finetune(finetune.Run(config, out, where), force=True)
            losses[where] = losses_of(out)
        yield f"fine-tuning, {task}", relative(losses[device], losses["cpu"]), 1e-4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
