"""Carrying out one prepared merge, and what was done in a few numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.merging.execute import execute, settled
from vlmerge_cli.merging.job import Job
from vlmerge_cli.merging.opening import Prepared, check_output, completed
from vlmerge_cli.merging.plan import Plan
from vlmerge_cli.merging.recipe import output_of
from vlmerge_cli.result_base import Result

#: Fetched from the disk while torch is loaded.
READ_AHEAD_BYTES = 1 << 30


@dataclass(frozen=True)
class Settings:
    """How a merge runs; none of it changes the result."""

    device: str = "auto"
    threads: int = field(default_factory=lambda: min(4, devices.num_cpus()))
    allow_non_finite: bool = False
    full_digest: bool = False


@dataclass(frozen=True)
class Summary(Result):
    """What a merge did.

    ``unused`` are experts that had no weight in any slot, ``residuals`` the rows of a report where one was asked for.
    """

    output: str
    layout: str
    architecture: str
    method: str
    settings: dict[str, Any]
    learnt: dict[str, Any]
    unused: list[str]
    num_merged: int
    num_parameters_before: int
    num_parameters_after: int
    num_bytes_in: int
    num_bytes_out: int
    seconds: float
    residuals: tuple[Any, ...] = ()

    @property
    def gigabytes_per_second(self) -> float:
        return (self.num_bytes_in + self.num_bytes_out) / max(self.seconds, 1e-9) / 1e9

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict() | {"gigabytes_per_second": round(self.gigabytes_per_second, 3)}
        if self.residuals:
            return found | {"residuals": [one.record(Path(self.output).name).to_dict() for one in self.residuals]}
        return {name: value for name, value in found.items() if name != "residuals"}


def run(ready: Prepared, target: Target, settings: Settings, advance: Callable[[int], object]) -> Summary:
    """Carry out a prepared merge into ``target``, Grams that are missing collected first.

    Raises UsageError, PlanError, MergeError and CheckpointError.
    """
    check_output(ready, target)
    (ready,) = completed([ready], settings.device)
    started = time.perf_counter()
    device = devices.resolve(settings.device, prefer_gpu=ready.plan.solves)
    if device != "cpu":
        devices.start_torch()
        ready.checkpoint.read_ahead(READ_AHEAD_BYTES)
    job = settled(job_of(ready, device, settings))
    ready = replace(ready, plan=job.plan)
    with output_of(ready, target, settings.full_digest, shared=True) as output:
        execute(job, output, advance)
        ready.check_unchanged()
    before, after = ready.num_parameters
    return Summary(
        output=str(target.path),
        layout=ready.plan.survey.layout.name,
        architecture=ready.plan.survey.architecture,
        method=ready.plan.method.name,
        settings=ready.plan.method.settings(),
        learnt=ready.plan.method.learnt(),
        unused=_unused(ready.plan),
        num_merged=len(ready.plan.merges),
        num_parameters_before=before,
        num_parameters_after=after,
        num_bytes_in=sum(c.num_bytes for c in (ready.checkpoint, ready.base, ready.grams) if c is not None),
        num_bytes_out=ready.plan.num_bytes_out,
        seconds=time.perf_counter() - started,
    )


def job_of(ready: Prepared, device: str, settings: Settings) -> Job:
    return Job(
        ready.plan,
        ready.checkpoint,
        ready.base,
        ready.grams,
        device,
        max(1, settings.threads),
        settings.allow_non_finite,
    )


def _unused(plan: Plan) -> list[str]:
    """Experts that are in some group and have weight 0 in every one."""
    weights: dict[str, float] = {}
    for step in plan.merges:
        for expert, share in plan.method.shares(list(step.sources), plan.survey.layout.top, step.slot).items():
            weights[expert] = max(weights.get(expert, 0.0), share)
    return [expert for expert in plan.survey.layout.experts if weights.get(expert) == 0]
