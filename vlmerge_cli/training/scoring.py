"""A checkpoint's scores on one split of a data set, and how fast they were had."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from vlmerge_cli import console
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.source_spec import parse
from vlmerge_cli.data.sources import DataSet, open_data
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.errors import DataError, UsageError
from vlmerge_cli.steps import precision
from vlmerge_cli.steps.evaluation import Evaluation, Scores
from vlmerge_cli.tasks.task import Measure, measure
from vlmerge_cli.training.pretrain_config import VIEWS
from vlmerge_cli.training.start import Start, look
from vlmerge_cli.weights.vlmodel import VLModel


@dataclass(frozen=True)
class Question:
    """What is asked of a checkpoint: which scores, on what."""

    task: str
    data: tuple[str, ...] = ()  # none: what the checkpoint was trained on
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
    model: dict[str, Any] = field(default_factory=dict)  # settings of the model that a checkpoint does not tell


@dataclass(frozen=True)
class Answer:
    """The scores of ``Question.task``; ``seconds`` are for the evaluation without loading the model."""

    scores: Scores
    seconds: float
    bad: str  # what was skipped, in words
    data: tuple[str, ...]  # what was scored on, each source with the options that differ from the defaults

    @property
    def samples_per_second(self) -> float:
        return self.scores.num_samples / max(self.seconds, 1e-9)


def score(checkpoint: str, question: Question, device: str = "cpu") -> Answer:
    """Load a checkpoint and evaluate it. Raises UsageError for one without the head, CheckpointError, DataError."""
    precision.check(question.precision)
    start, asked = look(checkpoint, question.model), measure(question.task)
    _check_told(start, question.model)
    asked.check(start.config)
    question = replace(question, data=start.data(question.data))
    tokenizer = start.load_tokenizer(start.config, question.tokenizer)
    bad = BadSamples(question.max_bad_ratio)
    data = open_split(question, start, asked, bad)
    _check_classes(start, asked, data)
    named = named_data(question.data, shapes_of(question, start))
    model = precision.cast(VLModel.from_pretrained(checkpoint, config=start.config).to(device), question.precision)
    evaluation = evaluation_of(question, start, model, data, bad, tokenizer)
    console.say(f"{asked.name}: {len(data)} samples of {question.split} of {', '.join(named)}")
    return timed(lambda: asked.evaluate(evaluation), bad, named)


def _check_told(start: Start, given: Mapping[str, Any]) -> None:
    """Raises UsageError for a setting that the checkpoint has otherwise."""
    for name, value in given.items():
        if getattr(start.config, name, None) != value:
            what = f"--set {name}={value}: the checkpoint says {getattr(start.config, name, 'nothing of it')}"
            raise UsageError(what, fix="leave it out: it is for what a checkpoint does not tell")


def _check_classes(start: Start, asked: Measure, data: DataSet) -> None:
    """Raises DataError for data whose classes are not those that the head numbers, or more than it has."""
    if asked.kind not in ("labels", "masks"):
        return
    size = start.config.num_classes if asked.kind == "labels" else start.config.num_segments
    own, theirs = start.about.get("classes") or [], data.class_names
    named = not all(name.isdigit() for name in (*own, *theirs))
    if len(theirs) > size or (own and (len(theirs) != size or (named and list(own) != list(theirs)))):
        ours = f"{size} classes{_few(own)}"
        what = f"the head knows {ours}, the data have {len(theirs)}{_few(theirs)}"
        raise DataError(
            what, where=", ".join(source.name for source in data.sources), fix="score it on its own classes"
        )


def _few(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def timed(evaluate: Callable[[], Scores], bad: BadSamples, named: tuple[str, ...]) -> Answer:
    started = time.perf_counter()
    scores = evaluate()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if bad.num_bad:
        console.warn(f"skipped {bad.report()}")
    return Answer(scores, time.perf_counter() - started, bad.report(), named)


def shapes_of(question: Question, start: Start) -> ShapesOptions:
    """Options of the built-in data set: those that the checkpoint was trained with, unless the question has others."""
    return ShapesOptions(**{"image_px": start.config.image_px, **start.shapes(question.data), **question.shapes})


def open_split(question: Question, start: Start, asked: Measure, bad: BadSamples, **options: Any) -> DataSet:
    """The data set of a question, with the checkpoint's own answers and split; ``options`` of the readers win."""
    own: dict[str, Any] = {"vqa_split": start.vqa_split}
    if start.answers is not None:
        own["answers"] = start.answers
    data = open_data(
        question.data,
        asked.kind,
        question.split,
        bad,
        shapes=shapes_of(question, start),
        check=question.check,
        **(own | options),
    )
    return first(data, question.max_samples)


def first(data: DataSet, num: int) -> DataSet:
    """The first so many samples; 0: all."""
    return data.only(range(num)) if 0 < num < len(data) else data


def evaluation_of(
    question: Question, start: Start, model: VLModel, data: DataSet, bad: BadSamples, tokenizer: Tokenizer, **more: Any
) -> Evaluation:
    config = model.config
    view = VIEWS.get(question.view or start.view, VIEWS["whole"])
    form = Form(config.image_px, tokenizer, view, num_classes=config.num_segments)
    return Evaluation(model, data, form, question.chunk_size, question.num_workers, question.precision, bad, **more)


def named_data(data: tuple[str, ...], shapes: ShapesOptions) -> tuple[str, ...]:
    """Each source as given; the built-in one with options that differ from its own: ``shapes(train=64, val=16)``."""
    default = ShapesOptions()
    other = [
        f"{field.name}={getattr(shapes, field.name)}"
        for field in fields(shapes)
        if field.name != "variant" and getattr(shapes, field.name) != getattr(default, field.name)
    ]
    options = f"({', '.join(other)})" if other else ""
    return tuple(f"{text}{options}" if parse(text).is_built_in else text for text in data)
