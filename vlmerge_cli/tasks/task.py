"""What every task is: the data it needs, a head, a loss to fine-tune with, scores to judge by."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from vlmerge_cli.data.samples import Kind
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.steps.evaluation import Evaluation, Scores
from vlmerge_cli.steps.passes import Outcome, Passes
from vlmerge_cli.tasks import MEASURES, TASKS


class Measure:
    """Something that a model is evaluated on.

    ``served_by`` are heads any one of which will do; ``main`` is the score that a model is chosen by, the
    higher the better.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    served_by: ClassVar[tuple[str, ...]]
    main: ClassVar[str]
    has_predictions: ClassVar[bool] = False  # whether each sample gets an answer that can be written to a file

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """The scores of ``evaluation.model`` on ``evaluation.data``, equal on every rank."""
        raise NotImplementedError

    def check(self, config: ModelConfig) -> None:
        """Raises UsageError for a model without a head that serves."""
        if not set(self.served_by) & set(config.heads):
            fix = f"fine-tune it first: vlmerge finetune CKPT --task {self.name}"
            heads = ", ".join(config.heads) or "none"
            raise UsageError(
                f"the model has no head for {self.name}: its heads are {heads}",
                fix=fix if self.name in TASKS else f"use a checkpoint with the head {self.served_by[0]}",
            )


class Task(Measure):
    """Something that a model is fine-tuned for.

    ``published`` are the settings for models of BERT's and BEiT's sizes, ``built_in`` those for the built-in data
    set and models of its size: dotted names of the run's settings.
    """

    head: ClassVar[str]
    published: ClassVar[Mapping[str, Any]]
    built_in: ClassVar[Mapping[str, Any]]

    def sizes(self, data: DataSet) -> dict[str, int]:
        """Fields of the model's configuration that the data decide."""
        return {}

    def loss(self, passes: Passes) -> Outcome:
        """Of one training batch."""
        raise NotImplementedError


def measure(name: str) -> Measure:
    """A task or measure by name. Raises UsageError with the nearest name."""
    return _made(name, {**TASKS, **MEASURES})  # type: ignore[no-any-return]


def task(name: str) -> Task:
    """A task by name. Raises UsageError with the nearest name."""
    if name in MEASURES:
        raise UsageError(f"{name} is evaluated, not trained", fix=f"choose one of: {', '.join(TASKS)}")
    return _made(name, TASKS)  # type: ignore[no-any-return]


def _made(name: str, table: Mapping[str, str]) -> Any:
    if name not in table:
        raise UsageError(f"no task {name!r}", fix=nearest(name, table))
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)()
