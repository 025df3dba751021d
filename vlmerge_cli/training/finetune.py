"""Fine-tuning on one task, from weights of any architecture; the best model is the one that validates best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmerge_cli import console
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.sources import DataSet, paths_of
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.model import heads
from vlmerge_cli.outputs.replacing import inputs_of
from vlmerge_cli.steps.across_ranks import Gradients
from vlmerge_cli.steps.evaluation import Look
from vlmerge_cli.steps.keyed_random import Noise
from vlmerge_cli.steps.passes import Passes
from vlmerge_cli.steps.precision import cast, typed
from vlmerge_cli.tasks.task import Task, task
from vlmerge_cli.training.finetune_config import FinetuneConfig
from vlmerge_cli.training.log import Log
from vlmerge_cli.training.loop import Phase, Trainer
from vlmerge_cli.training.optim import multiplier_of
from vlmerge_cli.training.parallel import parallelize
from vlmerge_cli.training.pretrain_config import AUGMENTS, Saving
from vlmerge_cli.training.reach import freeze_unreached
from vlmerge_cli.training.run_folder import opened, save_model
from vlmerge_cli.training.scoring import Question, evaluation_of, first, open_split
from vlmerge_cli.training.start import Start, look
from vlmerge_cli.training.state import position_of
from vlmerge_cli.weights.load import load_weights
from vlmerge_cli.weights.vlmodel import VLModel

CONFIG_NAME = "finetune.yaml"
START_NAME = "start"  # what the checkpoint was merged into


class FinetuneStep(nn.Module):
    """The task's loss on one batch, or what ``look`` sees in it (evaluation, through the wrapped module)."""

    def __init__(self, model: VLModel, chosen: Task, seed: int, gradients: Gradients) -> None:
        super().__init__()
        self.model, self.task, self.seed, self.gradients = model, chosen, seed, gradients

    def forward(self, batch: Batch, progress: float, see: Look | None = None) -> Any:
        if see is not None:
            return see(batch)
        passes = Passes(self.model, batch, Noise(self.seed, batch.row), progress, self.gradients)
        outcome = self.task.loss(passes)
        values: tuple[Tensor, dict[str, Tensor]] = (outcome.loss, outcome.values)
        return values


@dataclass(frozen=True)
class Run:
    """A fine-tuning run and its folder."""

    config: FinetuneConfig
    folder: Path
    device: str = "cpu"


def finetune(
    run: Run, resume: bool = False, force: bool = False, make_start: Callable[[Path], object] | None = None
) -> Path:
    """Train; the folder with the last model, in ``best`` the best one.

    ``make_start`` fills the path it is given with the checkpoint to start from (a merge on the way in); without it
    that is ``config.checkpoint``. Raises UsageError for a folder that holds another run, and what reading the
    checkpoint and the data raises.
    """
    config, chosen, bad = run.config, task(run.config.task), BadSamples(run.config.max_bad_ratio)
    sources = inputs_of(config.checkpoint, *paths_of(config.data))
    with opened(run.folder, CONFIG_NAME, config.to_yaml(), resume, force, sources) as folder:
        data, held_out = _data(config, chosen, look(config.checkpoint, config.changes), bad)
        folder.begin()
        _train(run, chosen, look(_starting_point(run, make_start), config.changes), data, held_out, bad, folder.newest)
    return run.folder


def _train(
    run: Run, chosen: Task, start: Start, data: DataSet, held_out: DataSet, bad: BadSamples, newest: Path | None
) -> None:
    config = run.config
    phase = Phase("finetune", 0, num_steps(config, len(data)))
    model = starting_model(config, chosen, start, data)
    step = cast(FinetuneStep(model, chosen, config.seed, config.gradients).to(run.device), config.precision)
    num_frozen = freeze_unreached(model, lambda batch: step(batch, 0.0)[0], chosen.kind)
    ready = parallelize(step, model, parallel=config.parallel, recompute=config.recompute, compiled=config.compile)
    tokenizer = _tokenizer(config, start, model)
    question = _question(config)
    validation = evaluation_of(
        question, start, model, held_out, bad, tokenizer, through=lambda see, batch: step(batch, 0.0, see)
    )
    about = {
        "task": config.task, "data": list(config.data), "tokenizer": config.tokenizer,
        "run": config.model_dump(mode="json"), **_labels(chosen, data),
    }  # fmt: skip
    log = Log(run.folder, 0 if newest is None else position_of(newest).step)
    trainer = Trainer(
        phase=phase,
        step=ready,
        module=step,
        optimizer=config.optimizer,
        saving=_saving(config, len(data)),
        folder=run.folder,
        log=log,
        precision=config.precision,
        accumulate=config.accumulate,
        tokens_per_sample=model.config.max_text_tokens + model.config.num_image_tokens,
        score=lambda: chosen.evaluate(validation).values,
        chosen_by=chosen.main,
        higher_is_better=True,
        patience=config.patience,
        multiplier=_multiplier(config, chosen, model),
        save_best=lambda: save_model(model, run.folder / "best", about, tokenizer),
    )
    try:
        first_step = 0 if newest is None else trainer.resume(newest)
        size = console.count(sum(p.numel() for p in model.parameters()))
        console.say(
            f"{config.task}: {size} parameters ({model.config.architecture}), "
            f"{console.count(num_frozen)} of them not used, {len(data)} samples, "
            f"steps {first_step} to {phase.last}, batch {config.batch_size}"
        )
        trainer.fit(typed(_loader(run, model, tokenizer, data, bad).steps(first_step), config.precision), first_step)
    finally:
        log.close()
    if bad.num_bad:
        console.warn(f"skipped {bad.report()}")
    save_model(model, run.folder, about, tokenizer)


def num_steps(config: FinetuneConfig, num_samples: int) -> int:
    """``steps``, or the whole batches of ``epochs`` epochs (at least one)."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return max(1, math.floor(num_samples // config.batch_size * config.epochs))


def starting_model(config: FinetuneConfig, chosen: Task, start: Start, data: DataSet) -> VLModel:
    """The checkpoint with the task's head, new unless it had it, at the task's image size."""
    changes: dict[str, Any] = {
        "heads": (chosen.head,), "image_px": config.image_px, "drop_path": config.drop, "dropout": config.drop,
        **chosen.sizes(data), **config.changes,
    }  # fmt: skip
    torch.manual_seed(config.seed)
    if config.random:
        return VLModel(start.config.change(**changes))
    other = [name for name, size in chosen.sizes(data).items() if getattr(start.config, name) != size]
    if other and chosen.head in start.config.heads:  # a head for other answers or classes: a new one
        model = VLModel(start.config.change(**changes))
        leave = [f"{part}.*" for part in _classifiers(chosen)]
        console.say_lines(load_weights(model, start.path, leave=leave, config=start.config).summary())
        return model
    return VLModel.from_pretrained(start.path, **changes)


def _starting_point(run: Run, make_start: Callable[[Path], object] | None) -> Path | str:
    if make_start is None:
        return run.config.checkpoint
    path = run.folder / START_NAME
    if not path.exists():
        make_start(path)  # all ranks together
    return path


def _question(config: FinetuneConfig) -> Question:
    return Question(
        config.task, config.data, "val", config.shapes, config.tokenizer, config.chunk_size, config.max_samples,
        config.num_workers, config.precision, config.max_bad_ratio, config.check, config.view,
    )  # fmt: skip


def _data(config: FinetuneConfig, chosen: Task, start: Start, bad: BadSamples) -> tuple[DataSet, DataSet]:
    """Training and validation samples; both with the answers of the former."""
    at_size = replace(start, config=start.config.change(image_px=config.image_px), about={})
    question = replace(_question(config), max_samples=0)
    options: dict[str, Any] = {"vqa_split": config.vqa_split, "restval": config.restval}
    train = open_split(
        replace(question, split="train"), at_size, chosen, bad, num_answers=config.num_answers, **options
    )
    if chosen.kind == "questions":
        options["answers"] = train.vocabulary
    return train, first(open_split(question, at_size, chosen, bad, **options), config.max_samples)


def _tokenizer(config: FinetuneConfig, start: Start, model: VLModel) -> Tokenizer:
    if config.random:  # no word of the checkpoint's is used
        return load_tokenizer(config.tokenizer, model.config.max_text_tokens)
    return start.load_tokenizer(model.config, config.tokenizer)


def _loader(run: Run, model: VLModel, tokenizer: Tokenizer, data: DataSet, bad: BadSamples) -> Loader:
    config = run.config
    form = Form(
        config.image_px,
        tokenizer,
        AUGMENTS[config.augment],
        answers=data.vocabulary if data.kind == "questions" else None,
        num_classes=model.config.num_segments,
    )
    return Loader(
        data, form, config.batch_size, seed=config.seed, num_workers=config.num_workers, device=run.device, bad=bad
    )


def _saving(config: FinetuneConfig, num_samples: int) -> Saving:
    """The settings in steps, an epoch where they say 0."""
    epoch = max(1, num_samples // config.batch_size)
    wanted = config.saving
    return Saving(
        every=wanted.every or epoch, keep=wanted.keep, validate_every=wanted.validate_every or epoch,
        validate_batches=0, log_every=wanted.log_every,
    )  # fmt: skip


def _multiplier(config: FinetuneConfig, chosen: Task, model: VLModel) -> Callable[[str], float]:
    own = _classifiers(chosen)
    settings = config.optimizer
    return lambda name: multiplier_of(
        name, model.config.num_layers, settings.layer_decay, own, settings.head_multiplier
    )


def _classifiers(chosen: Task) -> list[str]:
    return [part for part in heads.PARTS[chosen.head] if part.endswith("_classifier")]


def _labels(chosen: Task, data: DataSet) -> dict[str, Any]:
    """What the head's outputs stand for, kept with the weights."""
    if chosen.kind == "questions":
        return {"answers": list(data.vocabulary.labels)}
    return {"classes": list(data.class_names)} if chosen.kind in ("labels", "masks") else {}
