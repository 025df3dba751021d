"""A checkpoint's scores on one split of a data set, and how fast they were had."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from vlmerge_cli import console
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.sources import DataSet, open_data
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.errors import UsageError
from vlmerge_cli.steps.evaluation import Evaluation, Scores
from vlmerge_cli.tasks.task import Measure, measure
from vlmerge_cli.training.pretrain_config import VIEWS
from vlmerge_cli.training.start import Start, look
from vlmerge_cli.weights.vlmodel import VLModel


@dataclass(frozen=True)
class Question:
    """What is asked of a checkpoint: which scores, on what."""

    task: str
    data: tuple[str, ...] = ("shapes",)
    split: str = "val"
    shapes: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None  # None: the checkpoint's
    chunk_size: int = 64
    max_samples: int = 0  # the first ones; 0: all
    num_workers: int = 0
    precision: str = "float32"
    max_bad_ratio: float = 0.0
    check: Check = "exists"
    view: str | None = None  # what is seen of an image (VIEWS); None: as the checkpoint's head was trained


@dataclass(frozen=True)
class Answer:
    """The scores of ``Question.task``; ``seconds`` are for the evaluation without loading the model."""

    scores: Scores
    seconds: float
    bad: str  # what was skipped, in words

    @property
    def samples_per_second(self) -> float:
        return self.scores.num_samples / max(self.seconds, 1e-9)


def score(checkpoint: str, question: Question, device: str = "cpu") -> Answer:
    """Load a checkpoint and evaluate it. Raises UsageError for one without the head, CheckpointError, DataError."""
    start, asked = look(checkpoint), measure(question.task)
    asked.check(start.config)
    bad = BadSamples(question.max_bad_ratio)
    data = open_split(question, start, asked, bad)
    model = VLModel.from_pretrained(checkpoint).to(device)
    if question.precision == "float64":
        model.double()
    evaluation = evaluation_of(question, start, model, data, bad)
    console.say(f"{asked.name}: {len(data)} samples of {question.split}")
    return timed(lambda: asked.evaluate(evaluation), bad)


def timed(evaluate: Callable[[], Scores], bad: BadSamples) -> Answer:
    started = time.perf_counter()
    scores = evaluate()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if bad.num_bad:
        console.warn(f"skipped {bad.report()}")
    return Answer(scores, time.perf_counter() - started, bad.report())


def open_split(question: Question, start: Start, asked: Measure, bad: BadSamples, **options: Any) -> DataSet:
    """The data set of a question, with the checkpoint's own answers and split; ``options`` of the readers win."""
    shapes = ShapesOptions(**{"image_px": start.config.image_px, **start.shapes(question.data), **question.shapes})
    own: dict[str, Any] = {"vqa_split": start.vqa_split}
    if start.answers is not None:
        own["answers"] = start.answers
    data = open_data(
        question.data, asked.kind, question.split, bad, shapes=shapes, check=question.check, **(own | options)
    )
    return first(data, question.max_samples)


def first(data: DataSet, num: int) -> DataSet:
    """The first so many samples; 0: all."""
    return data.only(range(num)) if 0 < num < len(data) else data


def evaluation_of(
    question: Question, start: Start, model: VLModel, data: DataSet, bad: BadSamples, **more: Any
) -> Evaluation:
    config = model.config
    tokenizer = load_tokenizer(question.tokenizer or start.tokenizer, config.max_text_tokens)
    if tokenizer.size > config.vocab_size:
        what = f"the tokenizer has {tokenizer.size} words, the model {config.vocab_size}"
        raise UsageError(what, fix="name the tokenizer that the model was trained with")
    view = VIEWS.get(question.view or start.view, VIEWS["whole"])
    form = Form(config.image_px, tokenizer, view, num_classes=config.num_segments)
    return Evaluation(model, data, form, question.chunk_size, question.num_workers, question.precision, bad, **more)
