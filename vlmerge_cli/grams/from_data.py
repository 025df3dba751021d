"""Grams of a checkpoint of our own family over image-text data: open both, choose examples, run, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmerge_cli import console, devices, ranks
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.sources import DataSet, open_data
from vlmerge_cli.errors import PlanError, UsageError, nearest
from vlmerge_cli.grams import expert_inputs, rounds
from vlmerge_cli.grams.collector import Collector
from vlmerge_cli.layouts.layout import Layout
from vlmerge_cli.layouts.survey import Survey, find
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.vlmodel import VLModel

PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Choices:
    """How Grams are collected; the defaults are those of the command."""

    data: tuple[str, ...] = ()
    split: str = "train"
    num_examples: int = 4096  # 0: all
    batch_size: int = 32
    passes: tuple[str, ...] = expert_inputs.PASSES
    include_padding: bool = False
    precision: str = "float32"
    tokenizer: str | None = None
    seed: int = 0
    max_memory_bytes: int | None = None
    device: str = "auto"
    threads: int | None = None
    num_workers: int = 0
    max_bad_ratio: float = 0.01
    resume: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision}", fix=nearest(self.precision, PRECISIONS))


def gather(name: str, target: Target, choices: Choices, layout: Layout | None = None) -> dict[str, Any]:
    """Collect the Grams of a checkpoint by name; what the file says about itself."""
    with open_checkpoint(name) as opened:
        survey, _ = find(opened.tensors, layout, name)
        return collect(opened, survey, target, choices)


def collect(opened: Checkpoint, survey: Survey, target: Target, choices: Choices) -> dict[str, Any]:
    """Collect and write; returns what the file says about itself. Raises every error of the things it opens."""
    target.check(shard.path for shard in opened.shards)
    if not survey.groups:
        what = "the checkpoint is modality-agnostic already: no slot has more than one expert"
        raise PlanError(what, where=opened.name)
    device = devices.for_model(choices.device)
    model = VLModel.from_checkpoint(opened).to(device, PRECISIONS[choices.precision]).eval()
    form, words = _form(model, choices)
    data = _examples(choices, form, model, recorded_shapes(opened))
    job = rounds.Job(
        model, survey.layout, target, opened.fingerprint(), _about(choices, data, words), _products(choices),
        choices.include_padding, choices.max_memory_bytes, workers=_workers(choices), resume=choices.resume,
    )  # fmt: skip
    with _model_threads(choices):
        described = rounds.run(job, data)
    opened.check_unchanged()
    if data.bad.num_bad:
        console.warn(data.bad.report())
    missing = expert_inputs.without_tokens_of(survey, described["tokens"])
    if missing:
        console.warn(f"no Gram for {'; '.join(missing)}: no token reaches it in the passes {', '.join(choices.passes)}")
    return described


def recorded_shapes(opened: Checkpoint) -> dict[str, Any]:
    """Options of the built-in data set that a checkpoint was trained on, so that it is the same one again."""
    run = opened.about().get("run")
    found = run.get("shapes") if isinstance(run, dict) else None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Examples:
    """This rank's batches: every ``world_size``-th of those of the chosen examples."""

    model: VLModel
    data: DataSet
    chosen: NDArray[np.int64]
    form: Form
    choices: Choices
    bad: BadSamples

    @property
    def num_batches(self) -> int:
        return -(-len(self.chosen) // self.choices.batch_size)

    @property
    def num(self) -> int:
        return len(range(ranks.rank(), self.num_batches, ranks.world_size()))

    def run(self, first: int, collector: Collector) -> Iterator[None]:
        for ids, mask, image in self.batches(first):
            if len(image) or ids is not None:
                expert_inputs.run(self.model, ids, mask, image, self.choices.passes, collector)
            yield

    def batches(self, first: int) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor]]:
        """Ids (B, T), mask (B, T) and images (B, 3, px, px) of the samples of each batch that can be used."""
        size, model = self.choices.batch_size, self.model
        parameter = next(model.parameters())
        starts = [n * size for n in range(ranks.rank(), self.num_batches, ranks.world_size())][first:]
        if not starts:
            return
        wanted = np.concatenate([self.chosen[start : start + size] for start in starts])
        loader = Loader(
            self.data.only(wanted), self.form, size, training=False, num_workers=self.choices.num_workers,
            device=parameter.device, bad=self.bad, rank=0, world_size=1,
        )  # fmt: skip
        for batch in loader.all():
            keep = batch.valid
            image = torch.zeros(0) if batch.image is None else batch.image[keep].to(parameter.dtype)
            ids = None if batch.text is None else batch.text[keep]
            mask = None if batch.text_mask is None else batch.text_mask[keep]
            if bool(keep.any()):
                yield ids, mask, image
            else:
                yield None, None, torch.zeros(0)


def open_examples(choices: Choices, model: VLModel, opened: Checkpoint) -> Examples:
    """A choice of pairs for a model and what it takes of them, by what its checkpoint records."""
    form, _ = _form(model, choices)
    return _examples(choices, form, model, recorded_shapes(opened))


def described(choices: Choices, examples: Examples) -> dict[str, Any]:
    """On what something was computed, for a recipe."""
    found = _about(choices, examples, None)
    return {name: found[name] for name in ("data", "split", "num_examples", "batch_size", "seed")}


def _form(model: VLModel, choices: Choices) -> tuple[Form, str | None]:
    """What the model takes, without anything random, and what its vocabulary is called."""
    config, words, name = model.config, None, None
    if set(choices.passes) - {"image"}:
        assert model.place is not None, "the model was loaded"
        name = choices.tokenizer or vocabulary.name_of(model.about, model.place, config)
        words = vocabulary.load(model.about, model.place, config, name)
    return Form(config.image_px if set(choices.passes) - {"text"} else 0, words), name


def _examples(choices: Choices, form: Form, model: VLModel, shapes: Mapping[str, Any]) -> Examples:
    """A random choice of the data, the same on every rank, in the order in which it is stored."""
    bad = BadSamples(choices.max_bad_ratio)
    options = ShapesOptions(**{"image_px": model.config.image_px, **shapes})
    data = open_data(choices.data, "pairs", choices.split, bad, shapes=options)
    total = len(data)
    number = min(choices.num_examples or total, total)
    chosen = np.sort(generator(choices.seed, "grams").permutation(total)[:number])
    return Examples(model, data, chosen, form, choices, bad)


def _about(choices: Choices, data: Examples, words: str | None) -> dict[str, Any]:
    """How the Grams were made: kept in the file, and compared when a collection is resumed."""
    return {
        "data": [_portable(text) for text in choices.data],
        "split": choices.split,
        "num_examples": len(data.chosen),
        "batch_size": choices.batch_size,
        "passes": list(choices.passes),
        "precision": choices.precision,
        "seed": choices.seed,
        **({"tokenizer": Path(words).name} if words else {}),
    }


def _portable(text: str) -> str:
    """A source without the folders it lies in on this machine."""
    name, equals, path = text.rpartition("=")
    return name + equals + Path(path).name if Path(path).is_absolute() else text


def _products(choices: Choices) -> str:
    """What products are made in: bfloat16 activations are widened to float32."""
    return "float64" if choices.precision == "float64" else "float32"


def _workers(choices: Choices) -> int:
    """Threads that make Grams: half of those there are (the two kinds of work are nearly equal), on the CPU."""
    return max(1, (choices.threads or devices.num_cpus()) // 2)


@contextmanager
def _model_threads(choices: Choices) -> Iterator[None]:
    """The other half of the threads for the model."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (choices.threads or devices.num_cpus()) - _workers(choices)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
