"""Everything a fine-tuning run depends on, as one frozen value: from the task, YAML, flags and --set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vlmerge_cli.data.source_spec import is_built_in
from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import preset
from vlmerge_cli.tasks import TASKS
from vlmerge_cli.tasks.task import task
from vlmerge_cli.training.pretrain_config import (
    Optimizer,
    RunConfig,
    Settings,
    chosen_settings,
    nested,
    over,
    validated,
)
from vlmerge_cli.training.start import Start


class FinetuneOptimizer(Optimizer):
    """AdamW whose rate differs over the model."""

    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps")
    head_multiplier: float = Field(1.0, gt=0, description="of the learning rate of the task's classifier")
    layer_decay: float = Field(1.0, gt=0, le=1, description="of the learning rate from block to block, downwards")


class FinetuneSaving(Settings):
    """How often the state is saved, validated and logged, in steps; 0 is once an epoch."""

    every: int = Field(0, ge=0)
    keep: int = Field(1, ge=1, description="states kept, the newest; the best model is kept besides")
    validate_every: int = Field(0, ge=0)
    log_every: int = Field(20, ge=1)


class FinetuneConfig(RunConfig):
    """Defaults are those of the task: as published, or for the built-in data set."""

    task: str
    checkpoint: str
    merge: dict[str, Any] | None = Field(None, description="how the checkpoint is merged first; None: it is not")
    random: bool = Field(False, description="start values instead of the checkpoint's weights")
    tokenizer: str
    image_px: int = Field(ge=1)
    drop: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the last layer and dropout of the text")
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1, description="instead of epochs")
    patience: int = Field(0, ge=0, description="validations without a better score that end the run; 0: never")
    max_samples: int = Field(0, ge=0, description="validation samples, the first ones; 0: all")
    chunk_size: int = Field(64, ge=1, description="samples of an evaluation batch on each process")
    max_bad_ratio: float = Field(0.0, ge=0, le=1)
    check: Literal["none", "exists", "whole"] = "exists"
    num_answers: int | None = Field(None, ge=1, description="VQA: the most frequent ones; None: all that occur 9 times")
    view: Literal["whole", "centre"] = Field("whole", description="what evaluation sees of an image")
    vqa_split: Literal["published", "karpathy"] = Field("published", description="what VQA's train and val are")
    restval: bool = Field(False, description="train on COCO's restval images too")
    gradients: Literal["all", "local"] = "all"
    optimizer: FinetuneOptimizer
    saving: FinetuneSaving = FinetuneSaving()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set either steps or epochs")
        return self


def defaults(name: str, start: Start, data: tuple[str, ...]) -> dict[str, Any]:
    """Of a task: as published, or for the built-in data set (``data``) and models narrower than ViT-Tiny."""
    chosen = task(name)
    common: dict[str, Any] = {"tokenizer": start.tokenizer, "data": list(data), "shapes": start.shapes(data)}
    if is_built_in(data) or start.config.width < preset("tiny").width:
        own = {"image_px": start.config.image_px, "augment": "none", "num_workers": 0, "optimizer.clip": 5.0}
        return over(common, nested({**own, **chosen.built_in}))
    return over(common, nested(chosen.published))


def load(start: Start, path: Path | None, given: Mapping[str, Any], sets: Sequence[str]) -> FinetuneConfig:
    """Defaults of the task, then the file, then the command line, then ``--set a.b=c``. Raises UsageError."""
    chosen = chosen_settings(path, given, sets)
    if "task" not in chosen:
        raise UsageError("no task", fix=f"--task {'|'.join(TASKS)}")
    data = start.data(tuple(chosen.get("data") or ()))
    start_values = defaults(str(chosen["task"]), start, data)
    if "steps" in chosen or "epochs" in chosen:
        start_values = {name: value for name, value in start_values.items() if name not in ("steps", "epochs")}
    return validated(FinetuneConfig, over(start_values, chosen), str(path) if path else "")
