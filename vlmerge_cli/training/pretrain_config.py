"""Everything a pre-training run depends on, as one frozen value: from defaults by model size, YAML and --set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.transforms import BEIT, CENTRE, LIGHT, NONE, PUBLISHED
from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.model.config import ARCHITECTURES, PRESETS, ModelConfig, preset
from vlmerge_cli.tasks import OBJECTIVES

AUGMENTS = {"none": NONE, "light": LIGHT, "published": PUBLISHED, "beit": BEIT}
#: What evaluation sees of an image.
VIEWS = {"whole": NONE, "centre": CENTRE}


class Settings(BaseModel):
    """Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class Optimizer(Settings):
    """AdamW with linear warm-up and linear or cosine decay to 0 over each phase."""

    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.0125, ge=0, le=1, description="share of the phase's steps")
    decay: Literal["linear", "cosine"] = "linear"
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: any")


class Objectives(Settings):
    """Weight of each loss (0 leaves it out) and what they draw."""

    itc: float = Field(1.0, ge=0)
    itm: float = Field(1.0, ge=0)
    mlm: float = Field(0.25, ge=0)
    mask_ratio: float = Field(0.15, gt=0, lt=1)
    hard_from: float = Field(0.0, ge=0, le=1, description="share of the phase at which hard negatives begin")
    hard_full: float = Field(0.0, ge=0, le=1, description="share from which all negatives are hard; 1: never")
    gradients: Literal["all", "local"] = "all"

    @model_validator(mode="after")
    def _ordered(self) -> Objectives:
        if self.hard_from > self.hard_full:
            raise ValueError("hard_from exceeds hard_full")
        if not any(self.weights().values()):
            raise ValueError("every objective has weight 0")
        return self

    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in OBJECTIVES if getattr(self, name) > 0}


class Saving(Settings):
    """How often the state is saved, validated and logged, in steps."""

    every: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1, description="states kept, the newest; the best model is kept besides")
    validate_every: int = Field(1000, ge=1)
    validate_batches: int = Field(8, ge=0)
    log_every: int = Field(20, ge=1)


class RunConfig(Settings):
    """What pre-training and fine-tuning have in common."""

    data: tuple[str, ...] = ("shapes",)
    shapes: dict[str, Any] = Field(default_factory=dict, description="options of the built-in data set")
    changes: dict[str, Any] = Field(default_factory=dict, description="fields of the model's configuration")
    augment: Literal["none", "light", "published", "beit"] = "published"
    accumulate: int = Field(1, ge=1)
    seed: int = 1
    num_workers: int = Field(4, ge=0)
    threads: int = Field(0, ge=0, description="PyTorch's threads on a CPU; 0: as many as it likes")
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    recompute: bool = False
    compile: bool = False
    batch_size: int = Field(1024, ge=2)

    @model_validator(mode="after")
    def _splits(self) -> Self:
        for name in self.shapes:
            if name not in {option.name for option in fields(ShapesOptions)}:
                raise ValueError(f"no option shapes.{name}: {nearest(name, [o.name for o in fields(ShapesOptions)])}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} parts")
        return self

    def shapes_options(self, image_px: int) -> ShapesOptions:
        return ShapesOptions(**{"image_px": image_px, **self.shapes})


class PretrainConfig(RunConfig):
    """The defaults are the paper's for BEiT-base (section 5)."""

    model: str = "base"
    arch: str = "specific"
    init: str | None = None
    tokenizer: str = "bert-base-uncased"
    steps: int = Field(200_000, ge=1)
    seed_steps: int = Field(100_000, ge=0)
    seed_from: str | None = Field(None, description="checkpoint of a seed phase of seed_steps that is done already")
    max_bad_ratio: float = Field(0.01, ge=0, le=1)
    optimizer: Optimizer = Optimizer()
    objectives: Objectives = Objectives()
    saving: Saving = Saving()

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        if self.model not in PRESETS:
            raise ValueError(f"no model {self.model!r}: {nearest(self.model, PRESETS)}")
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"no architecture {self.arch!r}: {nearest(self.arch, ARCHITECTURES)}")
        if self.seed_steps > self.steps:
            raise ValueError(f"seed_steps {self.seed_steps} exceed steps {self.steps}")
        if self.seed_from is not None and self.seed_steps == 0:
            raise ValueError("seed_from has no effect without a seed phase: seed_steps is 0")
        if self.seed_from is not None and self.init is not None:
            raise ValueError("init has no effect beside seed_from, from which all weights come")
        return self

    def model_of(self, arch: str, vocab_size: int) -> ModelConfig:
        """The configuration of a phase's model."""
        changes = {"vocab_size": vocab_size, **self.changes}
        heads = tuple(self.objectives.weights())
        if "itm" in heads and self.objectives.hard_full < 1 and "itc" not in heads:
            heads = ("itc", *heads)  # hard negatives are drawn by the ITC features
        return preset(self.model, architecture=arch, heads=heads, **changes)


#: What differs from the paper's settings for a model size.
DEFAULTS: dict[str, dict[str, Any]] = {
    "small": {
        "tokenizer": "bundled", "augment": "none", "steps": 1000, "seed_steps": 500, "batch_size": 64,
        "num_workers": 0, "threads": 1,
        "optimizer": {"lr": 3e-3, "warmup": 0.05, "clip": 5.0},
        # At this size hard negatives from the start leave the matching head at the majority class.
        "objectives": {"mlm": 1.0, "mask_ratio": 0.25, "hard_from": 1.0, "hard_full": 1.0},
        "saving": {"every": 250, "validate_every": 250, "validate_batches": 4},
    },
    "micro": {
        "tokenizer": "bundled", "augment": "none", "steps": 40, "seed_steps": 20, "batch_size": 16,
        "num_workers": 0, "threads": 1, "shapes": {"train": 64, "val": 16, "test": 16},
        "changes": {"max_text_tokens": 20, "text_bias_tokens": 20},
        "optimizer": {"lr": 3e-3, "warmup": 0.05, "clip": 5.0},
        "objectives": {"mlm": 1.0, "mask_ratio": 0.25, "hard_from": 1.0, "hard_full": 1.0},
        "saving": {"every": 10, "validate_every": 20, "validate_batches": 1, "log_every": 5},
    },
    "tiny": {"steps": 100_000, "seed_steps": 50_000},
}  # fmt: skip


def load(path: Path | None, given: Mapping[str, Any], sets: Sequence[str]) -> PretrainConfig:
    """Defaults of the model size, then the file, then the command line, then ``--set a.b=c``.

    Other steps, without seed_steps, are halved as in the paper's recipe. Raises UsageError with all that is wrong, and
    the nearest name for an unknown one.
    """
    chosen = chosen_settings(path, given, sets)
    if isinstance(chosen.get("steps"), int) and "seed_steps" not in chosen:
        chosen["seed_steps"] = chosen["steps"] // 2
    size = chosen.setdefault("model", "small")
    return validated(PretrainConfig, over(DEFAULTS.get(size, {}), chosen), str(path) if path else "")


def chosen_settings(path: Path | None, given: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """What the user chose: the file, then the command line (None: not given), then ``--set a.b=c``."""
    chosen = over(_read(path) if path is not None else {}, nested({k: v for k, v in given.items() if v is not None}))
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text}", fix="write --set optimizer.lr=1e-3")
        chosen = over(chosen, nested({name: yaml.safe_load(value)}))
    return chosen


Config = TypeVar("Config", bound=Settings)


def validated(kind: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """A configuration from plain values. Raises UsageError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_problem(kind, entry) for entry in error.errors()]
        raise UsageError("no such run:", problems=problems, where=where) from None


def _problem(kind: Any, entry: Any) -> str:
    name = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        for part in entry["loc"][:-1]:
            kind = kind.model_fields[part].annotation
        return f"unknown setting {name!r}; {nearest(str(entry['loc'][-1]), kind.model_fields)}"
    message = entry["msg"].removeprefix("Value error, ")
    return f"{name}: {message} (is {entry['input']!r})" if name else message


def _read(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(found, dict):
        raise UsageError("not a map of settings", where=str(path))
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """``high`` over ``low``, map by map."""
    merged = dict(low)
    for name, value in high.items():
        both = isinstance(merged.get(name), dict) and isinstance(value, dict)
        merged[name] = over(merged[name], value) if both else value
    return merged
