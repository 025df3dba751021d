"""What a study trains, merges and scores, as one frozen value: a preset, a YAML file, flags and --set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.model.config import ARCHITECTURES, PRESETS
from vlmerge_cli.tasks import MEASURES, TASKS
from vlmerge_cli.training.pretrain_config import Settings, chosen_settings, over, validated


class StudySettings(Settings):
    """The grid of the paper's section 6 and 7; defaults are those of the preset ``full``."""

    preset: str = "full"
    model: str = "small"
    data: tuple[str, ...] = ("shapes",)
    task_data: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="data of a task that lie elsewhere")
    shapes: dict[str, Any] = Field(default_factory=dict, description="options of the built-in data set")
    pretrain: dict[str, Any] = Field(default_factory=dict, description="other settings of vlmerge pretrain")
    finetune: dict[str, Any] = Field(default_factory=dict, description="other settings of vlmerge finetune")
    vision_steps: int = Field(400, ge=0, description="of classification, before all; 0: from pretrain.init, or nothing")
    steps: int = Field(600, ge=1, description="of pre-training, the seed phase included")
    batch_size: int = Field(64, ge=2)
    k_seed: tuple[float, ...] = Field((0, 0.25, 0.5, 0.75), description="shares of the steps for the seed phase")
    recipe_k_seed: float = Field(0.5, description="the share that methods, sharing and tasks are studied at")
    widths: tuple[int, ...] = Field((64, 32), min_length=1, description="all is studied at the first")
    sharing: tuple[str, ...] = ("custom-attn", "custom-ffn", "custom-ln")
    alphas: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)
    lambdas: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)
    gammas: tuple[float, ...] = (0, 0.5, 0.9, 1)
    finetune_steps: dict[str, int] = Field({"retrieval": 50, "vqa": 200}, description="tasks of every checkpoint")
    more_tasks: dict[str, int] = Field(
        {"nlvr2": 200, "classification": 200, "segmentation": 200}, description="tasks of the final recipe alone"
    )
    finetune_seeds: tuple[int, ...] = Field((1,), min_length=1, description="of the models of the seed phases")
    gram_examples: int = Field(512, ge=1)
    max_samples: int = Field(0, ge=0, description="of each split that is scored, the first ones; 0: all")

    @model_validator(mode="after")
    def _fits(self) -> StudySettings:
        if self.model not in PRESETS:
            raise ValueError(f"no model {self.model!r}: {nearest(self.model, PRESETS)}")
        for name in self.sharing:
            if name not in ARCHITECTURES:
                raise ValueError(f"no architecture {name!r}: {nearest(name, ARCHITECTURES)}")
        for name in (*self.finetune_steps, *self.more_tasks):
            if name not in TASKS:
                raise ValueError(f"no task {name!r}: {nearest(name, TASKS)}")
        for name in self.task_data:
            if name not in {**TASKS, **MEASURES}:
                raise ValueError(f"no task {name!r}: {nearest(name, {**TASKS, **MEASURES})}")
        if not all(0 <= share < 1 for share in (*self.k_seed, self.recipe_k_seed)):
            raise ValueError("a share of the seed phase is not within [0, 1)")
        if self.recipe_k_seed not in self.k_seed or 0 not in self.k_seed:
            raise ValueError(f"k_seed {list(self.k_seed)} lacks 0 or recipe_k_seed {self.recipe_k_seed}")
        if self.lambdas and not self.seed_steps(self.recipe_k_seed) and not self.vision_steps:
            what = "arithmetic needs weights that all experts started from"
            raise ValueError(f"{what}: give recipe_k_seed or vision_steps, or lambdas=[]")
        return self

    def data_of(self, task: str) -> tuple[str, ...]:
        return self.task_data.get(task, self.data)

    def seed_steps(self, share: float) -> int:
        return round(share * self.steps)


STUDIES: dict[str, dict[str, Any]] = {
    # The question of the paper's Table 1 and Figure 3 in a few minutes: zero-shot scores only.
    "quick": {
        "widths": (32,), "batch_size": 32, "sharing": (), "lambdas": (0.5,), "gammas": (0.9,),
        "alphas": (0, 0.5, 0.75, 1), "finetune_steps": {}, "more_tasks": {}, "shapes": {"num_things": (1, 2)},
        "pretrain": {"optimizer": {"lr": 2e-3}},
    },
    # All tables and figures on two processors.
    "full": {"shapes": {"num_things": (1, 2)}, "pretrain": {"optimizer": {"lr": 2e-3}}},
    # Larger images, scenes and models.
    "gpu": {
        "widths": (384, 192), "steps": 2500, "batch_size": 256,
        "shapes": {"image_px": 64, "num_things": (2, 4), "train": 40_000, "test": 1000},
        "pretrain": {
            "precision": "bfloat16", "num_workers": 8, "optimizer": {"lr": 1e-3},
            "changes": {"image_px": 64, "num_heads": 6, "num_layers": 12, "fusion_layer": 10},
        },
        "finetune": {"precision": "bfloat16", "num_workers": 8},
        "finetune_steps": {"retrieval": 200, "vqa": 1000},
        "more_tasks": {"nlvr2": 1000, "classification": 1000, "segmentation": 1000},
        "finetune_seeds": (1, 2, 3),
        "gram_examples": 4096,
    },
}  # fmt: skip


def load(preset: str, path: Path | None, sets: Sequence[str]) -> StudySettings:
    """The preset, then the file, then ``--set a.b=c``. Raises UsageError with all that is wrong.

    A list or map of the grid that is given replaces the preset's; other settings of training are added to.
    """
    if preset not in STUDIES:
        raise UsageError(f"no preset {preset!r}", fix=nearest(preset, STUDIES))
    chosen = chosen_settings(path, {}, sets)
    whole = {"finetune_steps", "more_tasks"} & set(chosen)
    values = {name: value for name, value in STUDIES[preset].items() if name not in whole}
    return validated(StudySettings, over({**values, "preset": preset}, chosen), str(path) if path else "")
