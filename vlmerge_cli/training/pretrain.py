"""Pre-training from nothing to a modality-specific checkpoint worth merging (paper section 4.3).

K seed steps on the agnostic model, its weights into every expert, then the rest on the model that was asked
for. The seed's checkpoint is kept: it is the base of modality arithmetic.
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
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.sources import open_data, paths_of
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.data.tokenizer import load as load_tokenizer
from vlmerge_cli.data.transforms import NONE
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.outputs.replacing import inputs_of
from vlmerge_cli.steps.keyed_random import Noise
from vlmerge_cli.steps.passes import Outcome, Passes
from vlmerge_cli.steps.precision import cast, typed
from vlmerge_cli.tasks.itc import itc
from vlmerge_cli.tasks.itm import Negatives, itm
from vlmerge_cli.tasks.mlm import mlm
from vlmerge_cli.training import state
from vlmerge_cli.training.log import Log
from vlmerge_cli.training.loop import Phase, Trainer
from vlmerge_cli.training.parallel import parallelize
from vlmerge_cli.training.pretrain_config import AUGMENTS, Objectives, PretrainConfig
from vlmerge_cli.training.reach import freeze_unreached
from vlmerge_cli.training.run_folder import opened, save_model
from vlmerge_cli.training.start import look
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.load import load_weights
from vlmerge_cli.weights.torch_source import open_source
from vlmerge_cli.weights.vlmodel import VLModel

CONFIG_NAME = "pretrain.yaml"
OBJECTIVE: dict[str, Callable[[Passes], Outcome]] = {"itc": itc, "itm": itm, "mlm": mlm}


class PretrainStep(nn.Module):
    """The weighted sum of the objectives on one batch."""

    def __init__(self, model: VLModel, objectives: Objectives, seed: int) -> None:
        super().__init__()
        self.model, self.objectives, self.seed = model, objectives, seed

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        noise = Noise(self.seed, batch.row)
        passes = Passes(self.model, batch, noise, progress, self.objectives.gradients)
        negatives = Negatives(self.objectives.hard_from, self.objectives.hard_full)
        losses: list[Tensor] = []
        values: dict[str, Tensor] = {}
        for name, weight in self.objectives.weights().items():
            outcome = itm(passes, negatives) if name == "itm" else OBJECTIVE[name](passes)
            losses.append(weight * outcome.loss)
            values |= {name: outcome.loss, **outcome.values}
        return torch.stack(losses).sum(), values


@dataclass(frozen=True)
class Run:
    """A pre-training run and its folder."""

    config: PretrainConfig
    folder: Path
    device: str = "cpu"

    @property
    def phases(self) -> list[tuple[Phase, str]]:
        """Phases with steps to do, and their architectures."""
        k, n = self.config.seed_steps, self.config.steps
        both = [(Phase("seed", 0, k), "agnostic"), (Phase("pretrain", k, n), self.config.arch)]
        first = 0 if self.config.seed_from is None else 1
        return [(phase, arch) for phase, arch in both[first:] if phase.num_steps]

    @property
    def ends_with_seed(self) -> bool:
        """Whether no step follows the seed phase (λ = 0): every expert is then the seed's weights."""
        return self.config.seed_steps == self.config.steps and self.config.arch != "agnostic"

    @property
    def seed(self) -> str:
        """The checkpoint of the seed phase."""
        return self.config.seed_from or str(self.folder / "seed")


def pretrain(run: Run, resume: bool = False, force: bool = False) -> Path:
    """Train; the folder with the final checkpoint.

    Raises UsageError for a folder that holds another run, DataError, TrainingError, CheckpointError.
    """
    config = run.config
    sources = inputs_of(config.init, config.seed_from, *paths_of(config.data))
    with opened(run.folder, CONFIG_NAME, config.to_yaml(), resume, force, sources) as folder:
        tokenizer = load_tokenizer(config.tokenizer, text_tokens(config))
        for start in filter(None, (config.init, config.seed_from)):
            look(start)
        _loaders(run, config.model_of(config.arch, tokenizer.size), tokenizer)  # all that is wrong with the data
        folder.begin()
        if config.threads and run.device == "cpu":
            torch.set_num_threads(config.threads)
        _run_phases(run, tokenizer, folder.newest)
    return run.folder


def _run_phases(run: Run, tokenizer: Tokenizer, newest: Path | None) -> None:
    position = None if newest is None else state.position_of(newest)
    log = Log(run.folder, 0 if position is None else position.step)
    try:
        for phase, arch in run.phases:
            if position is not None and position.phase != phase.name and position.step >= phase.last:
                continue  # done before the run was stopped
            own = newest if position is not None and position.phase == phase.name else None
            _run_phase(run, phase, arch, tokenizer, log, own)
    finally:
        log.close()
    if run.ends_with_seed:
        _copy_seed(run, tokenizer)


def _copy_seed(run: Run, tokenizer: Tokenizer) -> None:
    """The model that was asked for, with the seed's weights in every expert."""
    model = VLModel(run.config.model_of(run.config.arch, tokenizer.size))
    console.say_lines(load_weights(model, run.seed).summary())
    save_model(model, run.folder, _about(run, "pretrain"), tokenizer)


def _about(run: Run, phase: str) -> dict[str, Any]:
    """What a checkpoint says of the run it is from."""
    config = run.config
    return {
        "phase": phase,
        "data": list(config.data),
        "tokenizer": config.tokenizer,
        "run": config.model_dump(mode="json"),
    }


def _run_phase(run: Run, phase: Phase, arch: str, tokenizer: Tokenizer, log: Log, saved: Path | None) -> None:
    config = run.config
    model = _starting_model(run, phase, config.model_of(arch, tokenizer.size), tokenizer)
    step = cast(PretrainStep(model, config.objectives, config.seed).to(run.device), config.precision)
    freeze_unreached(model, lambda batch: step(batch, 0.0)[0], "pairs")  # by objectives that are left out
    ready = parallelize(step, model, parallel=config.parallel, recompute=config.recompute, compiled=config.compile)
    train, validation, bad = _loaders(run, model.config, tokenizer)
    about = _about(run, phase.name)
    trainer = Trainer(
        phase=phase,
        step=ready,
        module=step,
        optimizer=config.optimizer,
        saving=config.saving,
        folder=run.folder,
        log=log,
        precision=config.precision,
        accumulate=config.accumulate,
        tokens_per_sample=model.config.max_text_tokens + model.config.num_image_tokens,
        validate=validation,
        save_best=lambda: save_model(model, run.folder / "best", about, tokenizer),
    )
    start = phase.first if saved is None else trainer.resume(saved)
    size = console.count(sum(p.numel() for p in model.parameters()))
    console.say(f"{phase.name}: {size} parameters ({arch}), steps {start} to {phase.last}, batch {config.batch_size}")
    trainer.fit(typed(train.steps(start), config.precision), start)
    if bad.num_bad:
        console.warn(f"skipped {bad.report()}")
    is_kept_apart = phase.name == "seed" and (len(run.phases) > 1 or run.ends_with_seed)
    save_model(model, run.folder / "seed" if is_kept_apart else run.folder, about, tokenizer)


def _starting_model(run: Run, phase: Phase, config: ModelConfig, tokenizer: Tokenizer) -> VLModel:
    torch.manual_seed(run.config.seed)
    model = VLModel(config)
    source = run.seed if phase.name == "pretrain" and run.config.seed_steps else run.config.init
    if source is not None:
        vocabulary.check(open_source(source).about, source, tokenizer, run.config.tokenizer)
        report = load_weights(model, source)
        console.say_lines(report.summary())
    return model


def _loaders(run: Run, config: ModelConfig, tokenizer: Tokenizer) -> tuple[Loader, Any, BadSamples]:
    """Training batches, a function that gives the validation batches (None: no validation), and the tally."""
    settings, bad = run.config, BadSamples(run.config.max_bad_ratio)
    shapes = settings.shapes_options(config.image_px)
    form = Form(config.image_px, tokenizer, AUGMENTS[settings.augment], settings.objectives.mask_ratio)
    data = open_data(settings.data, "pairs", "train", bad, shapes=shapes)
    train = Loader(
        data,
        form,
        settings.batch_size,
        seed=settings.seed,
        num_workers=settings.num_workers,
        device=run.device,
        bad=bad,
    )
    if settings.saving.validate_batches == 0:
        return train, None, bad
    plain = Form(config.image_px, tokenizer, NONE, settings.objectives.mask_ratio)
    held_out = open_data(settings.data, "pairs", "val", bad, shapes=shapes)
    batch_size = settings.batch_size // settings.accumulate
    checks = Loader(held_out, plain, batch_size, seed=settings.seed, device=run.device, bad=bad)

    def validation() -> Iterator[Batch]:
        return typed(checks.steps(0, settings.saving.validate_batches), settings.precision)

    return train, validation, bad


def text_tokens(config: PretrainConfig) -> int:
    """The length that texts are encoded to."""
    return config.model_of("agnostic", vocab_size=64).max_text_tokens
