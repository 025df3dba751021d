"""The kinds of work of a study's nodes: train, collect Grams, measure, merge, fine-tune, score."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from vlmerge_cli import console, ranks, records
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.distances.measure import measure, pairs
from vlmerge_cli.grams.from_data import Choices, gather
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.model.config import preset
from vlmerge_cli.records import Record
from vlmerge_cli.study.merged import Merging
from vlmerge_cli.study.nodes import Model, Place
from vlmerge_cli.study.settings import StudySettings
from vlmerge_cli.training import finetune, finetune_config, pretrain, pretrain_config
from vlmerge_cli.training.pretrain_config import over
from vlmerge_cli.training.run_folder import save_model
from vlmerge_cli.training.scoring import Question, score
from vlmerge_cli.training.start import look
from vlmerge_cli.weights.vlmodel import VLModel

SPLITS = ("val", "test")
CURVE_POINTS = 25  # of a training curve
NOT_IN_CURVES = ("samples_per_second", "tokens_per_second")  # these differ from run to run


@dataclass(frozen=True)
class VisionPhase:
    """Where all models of one width start: a transformer that knows images, as the paper starts from BEiT.

    Classification stands for BEiT's own objective, which needs a tokenizer of images.
    """

    kind: ClassVar[str] = "vision phase"
    model: Model

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        first = pretrain_settings(settings, self.model, steps=1, seed_steps=0, arch="agnostic")
        tokenizer = load_tokenizer(first.tokenizer, pretrain.text_tokens(first))
        config = first.model_of("agnostic", tokenizer.size).change(heads=("classification",))
        torch.manual_seed(self.model.seed)
        about = {"tokenizer": first.tokenizer, "run": first.model_dump(mode="json")}
        save_model(VLModel(config), place.folder / "start", about, tokenizer)
        _finetune(
            place, settings, str(place.folder / "start"), "classification", settings.vision_steps, self.model.seed
        )
        return []


@dataclass(frozen=True)
class SeedPhase:
    """The first part of pre-training, on the agnostic model: where all models of a family start."""

    kind: ClassVar[str] = "seed phase"
    model: Model
    start: str | None = None  # the node of the vision phase

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        steps, origin = settings.seed_steps(self.model.k_seed), _origin(place, self.start, "init")
        return _pretrain(place, settings, self.model, "seed", steps=steps, seed_steps=0, arch="agnostic", **origin)


@dataclass(frozen=True)
class Pretrain:
    """The rest of pre-training, from the weights of the seed phase, or of the vision phase where there was none."""

    kind: ClassVar[str] = "pre-training"
    model: Model
    start: str | None = None  # the node of that phase

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        seed_steps = settings.seed_steps(self.model.k_seed)
        origin = _origin(place, self.start, "seed_from" if seed_steps else "init")
        more = {"steps": settings.steps, "seed_steps": seed_steps, "arch": self.model.arch, **origin}
        return _pretrain(place, settings, self.model, "pretrain", **more)


@dataclass(frozen=True)
class Grams:
    """The Gram matrices of a checkpoint, for RegMean."""

    kind: ClassVar[str] = "Grams"
    source: str  # the node whose checkpoint it is

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        choices = Choices(
            data=settings.data, num_examples=settings.gram_examples, device=place.device, threads=1
        )  # fmt: skip
        with console.muted():
            gather(str(place.of(self.source).checkpoint), Target(self.file(place), force=True), choices)
        return []

    @staticmethod
    def file(place: Place) -> Path:
        return place.folder / "grams.safetensors"


@dataclass(frozen=True)
class Measure:
    """L2, cosine, SSD and TSSD between the vision and the language expert."""

    kind: ClassVar[str] = "distances"
    model: Model

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        name = str(place.of(self.model.name).checkpoint)
        with open_checkpoint(name) as opened:
            survey, _ = find(opened.tensors, None, name)
            found = measure(opened, survey, pairs(survey)[0])
        rows = sorted(found.rows, key=lambda row: int(row.at.partition(" ")[2]))
        made = []
        for row in (found.whole, *rows):
            values = row.to_dict()
            where = values.pop("at").replace("layer ", "layers.")
            at = {**self.model.at(), "pair": "v,l", "where": where}
            made.append(Record("distance", at, values))
        return made


@dataclass(frozen=True)
class Merge:
    """A checkpoint merged by the code of ``vlmerge merge``."""

    kind: ClassVar[str] = "merge"
    source: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None  # nodes
    grams: str | None = None

    def merging(self, place: Place) -> Merging:
        base = _checkpoint(place, self.base)
        grams = None if self.grams is None else str(Grams.file(place.of(self.grams)))
        return Merging(str(place.of(self.source).checkpoint), self.method, self.options, base, grams)

    def described(self) -> dict[str, Any]:
        """For records: nothing of where things lie."""
        return {"method": self.method, "settings": Merging("", self.method, self.options).made().settings()}

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        self.merging(place).write(place.checkpoint)
        return []


@dataclass(frozen=True)
class Score:
    """Scores of a checkpoint as it is, on both splits; ``at`` tells the records what it is."""

    kind: ClassVar[str] = "score"
    source: str
    task: str
    at: Mapping[str, Any]

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        return _scores(place.of(self.source).checkpoint, self.task, self.at, place, settings)


@dataclass(frozen=True)
class Finetune:
    """So many steps on one task from a checkpoint, the last model scored on both splits."""

    kind: ClassVar[str] = "fine-tuning"
    source: str
    task: str
    steps: int
    seed: int
    at: Mapping[str, Any]

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        _finetune(place, settings, str(place.of(self.source).checkpoint), self.task, self.steps, self.seed)
        return _scores(place.checkpoint, self.task, self.at, place, settings)


def _finetune(place: Place, settings: StudySettings, start: str, task: str, steps: int, seed: int) -> None:
    given = {
        "task": task, "checkpoint": start, "data": list(settings.data_of(task)), "steps": steps, "seed": seed,
        "saving": {"every": steps, "validate_every": steps, "log_every": steps}, "max_samples": 64,
    }  # fmt: skip
    config = finetune_config.load(look(start), None, over(settings.finetune, given), [])
    finetune.finetune(finetune.Run(config, place.checkpoint, place.device), resume=True)
    _tidy(place.checkpoint)


def pretrain_settings(settings: StudySettings, model: Model, **more: Any) -> pretrain_config.PretrainConfig:
    """Those of ``vlmerge pretrain`` for one phase of a model; ``more`` are its steps and where it starts."""
    standard = preset(settings.model)
    changes = {"width": model.width, "ffn_width": model.width * standard.ffn_width // standard.width}
    num_steps = more["steps"] - (more["seed_steps"] if more.get("seed_from") else 0)
    every = max(1, num_steps // CURVE_POINTS)
    saving = {"every": max(1, settings.steps // 4), "log_every": every, "validate_every": num_steps}
    own = {
        "model": settings.model, "data": list(settings.data), "shapes": settings.shapes, "seed": model.seed,
        "batch_size": settings.batch_size, "changes": changes, "saving": saving, **more,
    }  # fmt: skip
    return pretrain_config.load(None, over(settings.pretrain, own), [])


def _pretrain(place: Place, settings: StudySettings, model: Model, stage: str, **more: Any) -> list[Record]:
    config = pretrain_settings(settings, model, **more)
    folder = pretrain.pretrain(pretrain.Run(config, place.checkpoint, place.device), resume=True)
    curve = _curve(folder, model, stage)
    _tidy(folder)
    return curve


def _checkpoint(place: Place, node: str | None) -> str | None:
    return None if node is None else str(place.of(node).checkpoint)


def _origin(place: Place, node: str | None, setting: str) -> dict[str, str]:
    """The setting of pre-training that names where it starts; without a node that is the user's."""
    return {} if node is None else {setting: str(place.of(node).checkpoint)}


def _curve(folder: Path, model: Model, stage: str) -> list[Record]:
    made = []
    for row in records.read(folder / "metrics.jsonl"):
        at = {**model.at(), "stage": stage, "part": row.kind, "step": row.at["step"]}
        values = {name: value for name, value in row.values.items() if name not in NOT_IN_CURVES}
        made.append(Record("curve", at, values))
    return made


def _scores(
    checkpoint: Path, task: str, at: Mapping[str, Any], place: Place, settings: StudySettings
) -> list[Record]:  # fmt: skip
    made = []
    for split in SPLITS:
        question = Question(task, settings.data_of(task), split, max_samples=settings.max_samples)
        answer = score(str(checkpoint), question, place.device)
        found = answer.scores
        made.append(
            Record(
                "score",
                {**at, "split": split, "data": list(answer.data)},
                {**found.values, "num_samples": found.num_samples},
            )
        )
    return made


def _tidy(folder: Path) -> None:
    """Keep the last model; what resuming needed can go."""
    if ranks.is_main():
        for name in ("state", "best", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
    ranks.barrier()
