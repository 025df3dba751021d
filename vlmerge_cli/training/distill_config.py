"""Everything a distillation depends on, as one frozen value: from the model's size, YAML, flags and --set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vlmerge_cli.model.config import preset
from vlmerge_cli.steps.distillation import Shares
from vlmerge_cli.training.pretrain_config import (
    Optimizer,
    RunConfig,
    Saving,
    Settings,
    chosen_settings,
    over,
    validated,
)
from vlmerge_cli.training.start import Start

OPTIMIZER = Optimizer(lr=2e-3, weight_decay=0.0, warmup=1 / 15, clip=1.0)


class LossShares(Settings):
    """Weights of the parts of the loss (steps/distillation.py); 0 leaves one out."""

    alone: float = Field(1.0, ge=0, description="hidden states at the end of each modality's own pass")
    joint: float = Field(20.0, ge=0, description="hidden states at the end of the joint pass")
    tables: float = Field(1.0, ge=0, description="the batch's similarity tables, where the model has the itc head")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.alone or self.joint or self.tables):
            raise ValueError("every part of the loss has weight 0")
        return self

    def shares(self) -> Shares:
        return Shares(self.alone, self.joint, self.tables)


class DistillConfig(RunConfig):
    """Defaults are those that keep the most of the built-in models' scores (docs/distilling.md)."""

    checkpoint: str
    start: str = Field("interpolation", description="a merge method, a checkpoint, or random")
    data: tuple[str, ...] = ()
    images: str | None = Field(None, description="a folder of pictures without texts")
    texts: str | None = Field(None, description="a file with one text a line, which belong to no picture")
    synthetic: bool = Field(False, description="pictures made of random numbers: no data at all")
    words: Literal["own", "model", "random"] = Field("own", description="whose texts: own is those of data or texts")
    num_examples: int = Field(2048, ge=0, description="of the inputs, drawn by seed; 0: all")
    trains: Literal["blocks", "norms", "all"] = Field("blocks", description="norms: norms and biases of the blocks")
    tokenizer: str
    steps: int = Field(300, ge=1)
    max_bad_ratio: float = Field(0.01, ge=0, le=1)
    augment: Literal["none", "light", "published", "beit"] = "none"
    batch_size: int = Field(64, ge=2)
    num_workers: int = Field(0, ge=0)
    loss: LossShares = LossShares()
    optimizer: Optimizer = OPTIMIZER
    saving: Saving = Saving(every=100, keep=1, validate_every=50, validate_batches=4)

    @model_validator(mode="after")
    def _inputs(self) -> Self:
        given = [name for name in ("data", "images", "synthetic") if getattr(self, name)]
        if len(given) != 1:
            what = f"{' and '.join(given)} together" if given else "no inputs"
            raise ValueError(f"{what}: give one of --data SOURCE, --images FOLDER and --no-data")
        if self.texts is not None and (not self.images or self.words != "own"):
            raise ValueError("texts go with images, and with words own")
        if self.words == "own" and not self.data and self.texts is None:
            raise ValueError("there are no texts: words is model or random")
        return self


def load(start: Start, path: Path | None, given: Mapping[str, Any], sets: Sequence[str]) -> DistillConfig:
    """Defaults for the model, then the file, then the command line, then ``--set a.b=c``. Raises UsageError.

    The learning rate falls with the width from 64 on. Without texts the model writes them where it has the mlm head.
    """
    chosen = chosen_settings(path, given, sets)
    lr = 2e-3 * min(1.0, preset("small").width / start.config.width)
    low: dict[str, Any] = {
        "tokenizer": start.tokenizer,
        "optimizer": {**DistillConfig.model_fields["optimizer"].default.model_dump(), "lr": lr},
    }
    if not chosen.get("data") and not chosen.get("texts"):
        low["words"] = "model" if "mlm" in start.config.heads else "random"
    if chosen.get("data"):
        low["shapes"] = start.shapes(tuple(chosen["data"]))
    return validated(DistillConfig, over(low, chosen), str(path) if path else "")
