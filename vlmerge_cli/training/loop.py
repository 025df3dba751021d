"""One phase of training: steps, validation, saving, logging. Knows a step module and batches, nothing more."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlmerge_cli import console, ranks
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.errors import TrainingError
from vlmerge_cli.steps.across_ranks import mean, on_any_rank
from vlmerge_cli.steps.precision import autocast
from vlmerge_cli.training import state
from vlmerge_cli.training.log import Log
from vlmerge_cli.training.optim import clip_gradients, make_optimizer
from vlmerge_cli.training.parallel import finish_gradients, without_sync
from vlmerge_cli.training.pretrain_config import Optimizer as OptimizerSettings
from vlmerge_cli.training.pretrain_config import Saving
from vlmerge_cli.training.schedule import set_rate
from vlmerge_cli.training.state import Position


class Step(Protocol):
    """Called with a batch and the share of the phase that is done: the loss to minimise, and values to show.

    Both are this rank's, such that the mean over ranks is that of the global batch.
    """

    def __call__(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Phase:
    """Steps ``first`` ... ``last`` - 1 of a run, with a learning-rate schedule of their own."""

    name: str
    first: int
    last: int

    @property
    def num_steps(self) -> int:
        return self.last - self.first


@dataclass
class Trainer:
    """``step`` is what is called (DDP or FSDP around it), ``module`` what is saved (FSDP or plain)."""

    phase: Phase
    step: Any
    module: nn.Module
    optimizer: OptimizerSettings
    saving: Saving
    folder: Path
    log: Log
    precision: str = "float32"
    accumulate: int = 1
    tokens_per_sample: int = 0
    validate: Callable[[], Iterator[Batch]] | None = None
    save_best: Callable[[], None] = lambda: None
    score: Callable[[], dict[str, float]] | None = None  # validates instead of the loss on ``validate``
    chosen_by: str = "loss"  # the validation value that decides what is best ...
    higher_is_better: bool = False
    patience: int = 0  # validations without a better one after which the run ends; 0: never
    multiplier: Callable[[str], float] = lambda _: 1.0  # of a parameter's learning rate, by its name
    best: float | None = None
    stale: int = 0
    _adamw: torch.optim.Optimizer = field(init=False)
    _scaler: Any = field(init=False)

    def __post_init__(self) -> None:
        self._adamw = make_optimizer(self.module, self.optimizer, self.multiplier)
        self._device = next(self.module.parameters()).device
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self.precision == "float16")
        self._last_finite: dict[str, float] = {}

    def resume(self, saved: Path) -> int:
        """Take up a saved state; the step it stands at."""
        position = state.position_of(saved)
        assert position.phase == self.phase.name, (position, self.phase)
        state.restore(saved, self.module, self._adamw)
        self.best, self.stale = position.best, position.stale
        if position.scaler:
            self._scaler.load_state_dict(dict(position.scaler))
        return position.step

    def fit(self, batches: Iterator[Batch], start: int) -> None:
        """Train from step ``start`` to the end of the phase.

        Ctrl-C and SIGTERM, on any rank, take effect on every rank after the same step: the state is saved, then
        KeyboardInterrupt.
        Raises TrainingError for a loss that is not finite.
        """
        whole = self.phase.num_steps
        with stops() as stop, console.progress(self.phase.name, whole, "steps", start - self.phase.first) as bar:
            clock = _Clock(self.tokens_per_sample)
            for step in range(start, self.phase.last):
                if self._is_stale:
                    console.say(f"no better {self.chosen_by} in {self.stale} validations: ends at step {step}")
                    break
                batch = next(batches)
                values = self._train(batch, step)
                clock.count(len(batch) * ranks.world_size())
                bar(1)
                self._after(step + 1, values, clock, bar)
                if on_any_rank(stop.asked):
                    self._stop(step + 1)

    def _stop(self, done: int) -> None:
        self._save(done)
        console.say(f"stopped at step {done}; go on with --resume")
        raise KeyboardInterrupt

    def _after(self, done: int, values: dict[str, float], clock: _Clock, bar: Any) -> None:
        ends = done == self.phase.last
        at = {"phase": self.phase.name, "step": done}
        if done % self.saving.log_every == 0 or ends:
            values = values | clock.speed()
            self.log.write("train", at, values)
            shown = {name: value for name, value in values.items() if name not in ("lr", "tokens_per_second")}
            line = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
            bar.note(f"step {done}/{self.phase.last}  {line}")
        if done % self.saving.validate_every == 0 or ends:
            self._judge(at)
        if done % self.saving.every == 0 or ends or self._is_stale:
            self._save(done)

    def _judge(self, at: dict[str, Any]) -> None:
        """Validate, and keep the model if it is the best so far."""
        if self.score is None and self.validate is None:
            return
        found = self._evaluate() if self.score is None else self.score()
        self.log.write("validation", at, found)
        value = found[self.chosen_by]
        if self.best is None or (value > self.best if self.higher_is_better else value < self.best):
            self.best, self.stale = value, 0
            self.save_best()
        else:
            self.stale += 1

    @property
    def _is_stale(self) -> bool:
        return 0 < self.patience <= self.stale

    def _train(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimiser step; the losses of the global batch."""
        self.module.train()
        progress = (step - self.phase.first) / self.phase.num_steps
        rate = set_rate(
            self._adamw,
            self.optimizer.lr,
            step - self.phase.first,
            self.phase.num_steps,
            self.optimizer.warmup,
            self.optimizer.decay,
        )
        self._adamw.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(batch.split(self.accumulate)):
            with without_sync(self.step, last=number == self.accumulate - 1):
                with self._autocast():
                    loss, values = self.step(part, progress)
                self._scaler.scale(loss / self.accumulate).backward()
            for name, value in {"loss": loss, **values}.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + value.detach() / self.accumulate
        names = list(sums)
        found = dict(zip(names, mean(torch.stack([sums[name].double() for name in names])).tolist(), strict=True))
        if not math.isfinite(found["loss"]):
            raise self._broken(found, batch, step)
        self._last_finite = found
        finish_gradients(self.step)
        self._scaler.unscale_(self._adamw)
        if self.optimizer.clip:
            clip_gradients(self.module.parameters(), self.optimizer.clip)
        self._scaler.step(self._adamw)
        self._scaler.update()
        return found | {"lr": rate}

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Mean values over the validation batches."""
        assert self.validate is not None
        self.module.eval()
        sums: dict[str, Tensor] = {}
        num = 0
        for batch in self.validate():
            with self._autocast():
                loss, values = self.step(batch, 1.0)
            for name, value in {"loss": loss, **values}.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device).double()) + value.double()
            num += 1
        names = list(sums)
        return dict(zip(names, (mean(torch.stack([sums[name] for name in names])) / num).tolist(), strict=True))

    def _save(self, done: int) -> None:
        position = Position(self.phase.name, done, self.best, self.stale, self._scaler.state_dict())
        state.save(self.folder / "state", self.module, self._adamw, position, self.saving.keep)

    def _autocast(self) -> Any:
        return autocast(self._device, self.precision)

    def _broken(self, found: dict[str, float], batch: Batch, step: int) -> TrainingError:
        now = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if "accuracy" not in name)
        before = ", ".join(f"{name} {value:.4g}" for name, value in self._last_finite.items() if "accuracy" not in name)
        keys = ", ".join(batch.keys[:8]) + (", ..." if len(batch) > 8 else "")
        what = f"the loss is not finite at step {step}: {now}; before: {before or 'nothing'}; batch: {keys}"
        fix = "lower optimizer.lr, set optimizer.clip, or look at these samples; the saved states are as they were"
        return TrainingError(what, where=str(self.folder), fix=fix)


class Stop:
    """Whether someone has asked for the end."""

    asked = False

    def __call__(self, *_: object) -> None:
        if self.asked and ranks.world_size() == 1:  # twice: at once; torchrun repeats what each rank has been sent
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stops() -> Iterator[Stop]:
    """While the block runs, the first Ctrl-C or SIGTERM is only noted."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Clock:
    """Speed since the last look."""

    def __init__(self, tokens_per_sample: int) -> None:
        self._tokens, self._samples, self._since = tokens_per_sample, 0, time.perf_counter()

    def count(self, samples: int) -> None:
        self._samples += samples

    def speed(self) -> dict[str, float]:
        now = time.perf_counter()
        rate = self._samples / max(now - self._since, 1e-9)
        self._samples, self._since = 0, now
        return {"samples_per_second": round(rate, 2), "tokens_per_second": round(rate * self._tokens, 1)}
