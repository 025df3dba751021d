"""Training a merged model to act like the model it was merged from: no labels, no pairs, minutes.

Only the merged blocks are trained, by the loss of steps/distillation.py; the model that validates best by it on inputs
that were set aside is kept in ``best``. What is random is keyed by seed, so a stopped run goes on to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmerge_cli import console
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.provenance import moved
from vlmerge_cli.data.sources import paths_of
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.errors import UsageError
from vlmerge_cli.outputs.replacing import inputs_of
from vlmerge_cli.steps.distillation import Shares, distillation
from vlmerge_cli.steps.precision import cast, typed
from vlmerge_cli.training.distill_config import DistillConfig
from vlmerge_cli.training.distill_inputs import Inputs, open_inputs
from vlmerge_cli.training.log import Log
from vlmerge_cli.training.loop import Phase, Trainer
from vlmerge_cli.training.parallel import parallelize
from vlmerge_cli.training.reach import freeze_unreached
from vlmerge_cli.training.run_folder import opened, save_model
from vlmerge_cli.training.start import Start, look
from vlmerge_cli.training.state import position_of
from vlmerge_cli.weights.vlmodel import VLModel

CONFIG_NAME = "distill.yaml"
BLOCKS = "transformer.blocks."
START_NAME = "start"  # what the checkpoint was merged into


class DistillStep(nn.Module):
    """The loss of the student on one batch; the teacher is no part of what is trained and saved."""

    def __init__(self, student: VLModel, teacher: VLModel, shares: Shares) -> None:
        super().__init__()
        self.model, self.shares = student, shares
        self._teacher = (teacher,)

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return distillation(self.model, self._teacher[0], batch, self.shares)


@dataclass(frozen=True)
class Run:
    """A distillation and its folder."""

    config: DistillConfig
    folder: Path
    device: str = "cpu"


def distill(
    run: Run, resume: bool = False, force: bool = False, make_start: Callable[[Path], object] | None = None
) -> Path:
    """Train; the folder with the last model, in ``best`` the best one.

    ``make_start`` fills the path it is given with the merged checkpoint to start from; without it that is
    ``config.start``. Raises UsageError, DataError, TrainingError and CheckpointError.
    """
    config, bad = run.config, BadSamples(run.config.max_bad_ratio)
    merged = config.start if make_start is None else None
    sources = inputs_of(config.checkpoint, merged, config.images, config.texts, *paths_of(config.data))
    with opened(run.folder, CONFIG_NAME, config.to_yaml(), resume, force, sources) as folder:
        teacher = frozen(VLModel.from_pretrained(config.checkpoint, drop_path=0.0, dropout=0.0), run.device)
        tokenizer = look(config.checkpoint).load_tokenizer(teacher.config, config.tokenizer)
        inputs = open_inputs(config, teacher, tokenizer, bad)
        folder.begin()
        _train(run, teacher, *_student(run, make_start, teacher), inputs, tokenizer, bad, folder.newest)
    return run.folder


def _train(
    run: Run, teacher: VLModel, student: VLModel, start: Start, inputs: Inputs, tokenizer: Tokenizer, bad: BadSamples,
    newest: Path | None,
) -> None:  # fmt: skip
    config = run.config
    step = cast(DistillStep(student, teacher, config.loss.shares()).to(run.device), config.precision)
    cast(teacher, config.precision)
    num_trained = _choose_trained(student, config.trains, lambda batch: step(batch, 0.0)[0])
    ready = parallelize(step, student, parallel=config.parallel, recompute=config.recompute, compiled=config.compile)
    about = _about(config, start, run.folder)
    checks = inputs.loader(config, run.device, bad, held_out=True)

    def validation() -> Iterator[Batch]:
        return typed(inputs.batches(checks, True, 0, config.saving.validate_batches), config.precision)

    log = Log(run.folder, 0 if newest is None else position_of(newest).step)
    trainer = Trainer(
        phase=Phase("distill", 0, config.steps),
        step=ready,
        module=step,
        optimizer=config.optimizer,
        saving=config.saving,
        folder=run.folder,
        log=log,
        precision=config.precision,
        accumulate=config.accumulate,
        tokens_per_sample=student.config.max_text_tokens + student.config.num_image_tokens,
        validate=validation,
        save_best=lambda: save_model(student, run.folder / "best", about, tokenizer),
    )
    try:
        first_step = 0 if newest is None else trainer.resume(newest)
        console.say(
            f"distilling {console.count(num_trained)} parameters from {_named(config)}, {len(inputs.train)} samples, "
            f"steps {first_step} to {config.steps}, batch {config.batch_size}"
        )
        loader = inputs.loader(config, run.device, bad, held_out=False)
        trainer.fit(typed(inputs.batches(loader, False, first_step), config.precision), first_step)
    finally:
        log.close()
    if bad.num_bad:
        console.warn(f"skipped {bad.report()}")
    save_model(student, run.folder, about, tokenizer)


def frozen(model: VLModel, device: str) -> VLModel:
    """A model that is only asked."""
    return model.to(device).eval().requires_grad_(False)


def _student(run: Run, make_start: Callable[[Path], object] | None, teacher: VLModel) -> tuple[VLModel, Start]:
    """The merged model with which training starts, and what its checkpoint says of itself."""
    config = run.config
    path = Path(config.start)
    if make_start is not None:
        path = run.folder / START_NAME
        if not path.exists():
            make_start(path)  # all ranks together
    still = {"drop_path": 0.0, "dropout": 0.0}
    if config.start != "random":
        start = look(path)
        student = VLModel.from_pretrained(path, **still)
    else:
        start = look(config.checkpoint)
        torch.manual_seed(config.seed)
        student = VLModel(teacher.config.merged().change(**still))
        apart = {
            name: value for name, value in teacher.state_dict().items() if not name.startswith("transformer.blocks.")
        }
        student.load_state_dict(apart, strict=False)
    return student.to(run.device), start


def _choose_trained(student: VLModel, trains: str, loss: Callable[[Batch], Tensor]) -> int:
    """Leave gradients to the chosen parameters that the loss depends on; how many numbers that are."""
    freeze_unreached(student, loss, "pairs")
    for name, parameter in student.named_parameters():
        in_blocks = name.startswith(BLOCKS)
        if (trains != "all" and not in_blocks) or (trains == "norms" and parameter.ndim > 1):
            parameter.requires_grad_(False)
    chosen = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    if not chosen:
        raise UsageError("the loss depends on no parameter that is trained", fix="choose other trains or loss settings")
    return chosen


def _about(config: DistillConfig, start: Start, folder: Path) -> dict[str, Any]:
    """What the result says of itself: all that its start does, and how it was distilled."""
    inputs = {"data": list(config.data), "images": config.images, "texts": config.texts, "synthetic": config.synthetic}
    recipe = {
        "method": "distill", "start": start.about.get("recipe", config.start), "words": config.words,
        "num_examples": config.num_examples, "steps": config.steps, "seed": config.seed,
        **{name: value for name, value in inputs.items() if value},
    }  # fmt: skip
    return {**moved(start.about, start.place, folder), "tokenizer": config.tokenizer, "recipe": recipe}


def _named(config: DistillConfig) -> str:
    """The inputs in words."""
    pictures = "synthetic pictures" if config.synthetic else config.images or ", ".join(config.data)
    texts = {"own": config.texts or "their own texts", "model": "the model's own texts", "random": "random texts"}
    return f"{pictures} with {texts[config.words]}"
