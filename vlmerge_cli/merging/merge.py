"""One merge from start to end: open, detect, plan, write, and say what was done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmerge_cli import __version__, devices
from vlmerge_cli.checkpoint.dtypes import is_parameter
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.checkpoint.writer import Output, Target, create
from vlmerge_cli.errors import PlanError, UsageError
from vlmerge_cli.grams.gram_file import recorded_data, sibling_grams
from vlmerge_cli.layouts.layout import Layout, Slot
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.merging.execute import execute, settled
from vlmerge_cli.merging.job import Job
from vlmerge_cli.merging.plan import Merge, Plan, Request, make_plan
from vlmerge_cli.methods.method import Method

#: Stands for any linear slot when a method is asked whether it ever needs Grams.
ANY_LINEAR = (Slot(0, "weight", "linear"),)
#: Small files of a folder that go along with its weights: configurations, tokenizers, templates.
CARRIED = {".json", ".txt", ".model", ".jinja", ".yaml"}
MAX_CARRIED_BYTES = 16_000_000
#: Fetched from the disk while torch is loaded.
READ_AHEAD_BYTES = 1 << 30


@dataclass(frozen=True)
class Inputs:
    """What a merge reads, as the user names it; Grams default to the sibling ``NAME.grams.safetensors``."""

    checkpoint: str
    base: str | None = None
    grams: str | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class Settings:
    """How a merge runs; none of it changes the result."""

    device: str = "auto"
    threads: int = field(default_factory=lambda: min(4, devices.num_cpus()))
    allow_non_finite: bool = False
    full_digest: bool = False


@dataclass(frozen=True)
class Prepared:
    """A checked plan with its open inputs."""

    plan: Plan
    checkpoint: Checkpoint
    base: Checkpoint | None
    grams: Checkpoint | None
    reason: str

    @property
    def num_parameters(self) -> tuple[int, int]:
        """Parameters (elements of floating tensors) before and after."""
        before = sum(t.num_elements for t in self.checkpoint.tensors.values() if is_parameter(t.dtype))
        after = sum(s.num_elements for s in self.plan.specs.values() if is_parameter(s.dtype))
        return before, after


@dataclass(frozen=True)
class Summary:
    """What a merge did."""

    output: str
    layout: str
    architecture: str
    method: str
    settings: dict[str, Any]
    learnt: dict[str, Any]
    num_merged: int
    num_parameters_before: int
    num_parameters_after: int
    num_bytes_in: int
    num_bytes_out: int
    seconds: float

    @property
    def gigabytes_per_second(self) -> float:
        return (self.num_bytes_in + self.num_bytes_out) / max(self.seconds, 1e-9) / 1e9


@contextmanager
def prepared(inputs: Inputs, method: Method, request: Request, with_grams: bool = False) -> Iterator[Prepared]:
    """Open the inputs, find the layout and make the plan. Raises what those raise.

    ``with_grams`` opens the Grams for a method that does not need them (for a report).
    """
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(inputs.checkpoint))
        survey, reason = find(checkpoint.tensors, inputs.layout, inputs.checkpoint)
        base = None
        if method.needs_base and inputs.base is not None:
            base = stack.enter_context(open_checkpoint(inputs.base))
        elif inputs.base is not None:
            raise UsageError(f"--base belongs to arithmetic, {method.name} does not use it")
        grams = None
        if with_grams or any(method.needs_grams(slot) for slot in survey.groups):
            grams = _open_grams(inputs, checkpoint, stack)
            if grams is None and with_grams:
                fix = f"collect them: vlmerge grams {inputs.checkpoint} --data SOURCE; or name a file with --grams"
                raise PlanError("--report needs Gram matrices", where=str(sibling_grams(checkpoint)), fix=fix)
        elif inputs.grams is not None and not any(method.needs_grams(slot) for slot in ANY_LINEAR):
            what = f"--grams belongs to regmean, --alpha auto and --report; {method.name} does not use it"
            raise UsageError(what)
        plan = make_plan(checkpoint, survey, method, request, base, grams)
        yield Prepared(plan, checkpoint, base, grams, reason)


def can_collect(inputs: Inputs, method: Method, with_grams: bool = False) -> bool:
    """Whether a merge lacks its Grams and the checkpoint says on what data to collect them."""
    if inputs.grams is not None or not (with_grams or any(method.needs_grams(slot) for slot in ANY_LINEAR)):
        return False
    with open_checkpoint(inputs.checkpoint) as checkpoint:
        if sibling_grams(checkpoint).exists() or not recorded_data(checkpoint):
            return False
        survey, _ = find(checkpoint.tensors, inputs.layout, inputs.checkpoint)
        linear = [slot for slot in survey.groups if slot.kind == "linear"]
        return any(with_grams or method.needs_grams(slot) for slot in linear)


def run(ready: Prepared, target: Target, settings: Settings, advance: Callable[[int], object]) -> Summary:
    """Carry out a prepared merge into ``target``. Raises UsageError, MergeError and CheckpointError."""
    started = time.perf_counter()
    check_output(ready, target)
    device = devices.resolve(settings.device, prefer_gpu=ready.plan.solves)
    if device != "cpu":
        devices.start_torch()
        ready.checkpoint.read_ahead(READ_AHEAD_BYTES)
    job = Job(
        ready.plan,
        ready.checkpoint,
        ready.base,
        ready.grams,
        device,
        max(1, settings.threads),
        settings.allow_non_finite,
    )
    job = settled(job)
    ready = replace(ready, plan=job.plan)
    with output_of(ready, target, settings, shared=True) as output:
        execute(job, output, advance)
    before, after = ready.num_parameters
    return Summary(
        output=str(target.path),
        layout=ready.plan.survey.layout.name,
        architecture=ready.plan.survey.architecture,
        method=ready.plan.method.name,
        settings=ready.plan.method.settings(),
        learnt=ready.plan.method.learnt(),
        num_merged=len(ready.plan.merges),
        num_parameters_before=before,
        num_parameters_after=after,
        num_bytes_in=sum(c.num_bytes for c in (ready.checkpoint, ready.base, ready.grams) if c is not None),
        num_bytes_out=ready.plan.num_bytes_out,
        seconds=time.perf_counter() - started,
    )


def output_of(
    ready: Prepared, target: Target, settings: Settings, shared: bool = False
) -> AbstractContextManager[Output]:
    """The output of a prepared merge, to be filled: its recipe in the metadata, small files beside it."""
    about = recipe(ready, settings)
    metadata = {**ready.checkpoint.metadata, "format": "pt", "vlmerge": json.dumps(about, sort_keys=True)}
    return create(target, ready.plan.specs, metadata, _extras(ready, about, target), shared)


def default_output(checkpoint: Checkpoint) -> Path:
    """``ckpt.merged.safetensors`` beside a file, ``folder.merged`` beside a folder; Hub models go here."""
    path = checkpoint.path
    if checkpoint.folder is None:
        return path.with_name(path.name.removesuffix(".safetensors") + ".merged.safetensors")
    if Path(checkpoint.name).exists():
        return path.resolve().with_name(path.resolve().name + ".merged")
    return Path(checkpoint.name.partition("@")[0].rpartition("/")[2] + ".merged")


def recipe(ready: Prepared, settings: Settings) -> dict[str, Any]:
    """What was done, so that the merge can be repeated from its output; files by name and digest."""

    def described(source: Checkpoint | None) -> dict[str, str] | None:
        if source is None:
            return None
        return {"name": Path(source.name).name, "digest": source.fingerprint(settings.full_digest)}

    plan = ready.plan
    inputs = {"checkpoint": ready.checkpoint, "base": ready.base, "grams": ready.grams}
    about: dict[str, Any] = {
        **ready.checkpoint.about(),  # what the input says of itself: its tokenizer, its answers
        "version": __version__,
        "recipe": {
            "method": plan.method.name,
            "settings": plan.method.settings(),
            **plan.method.learnt(),
            "layout": plan.survey.layout.name,
            "architecture": plan.survey.architecture,
            "inputs": {name: described(source) for name, source in inputs.items() if source is not None},
        },
    }
    config = ready.checkpoint.config()
    if config is not None:
        about["config"] = _merged_config(config, plan)
    return about


def _merged_config(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The configuration of what comes out: agnostic, where nothing was kept apart and the model is this tool's."""
    from vlmerge_cli.model.config import MODEL_TYPE, ModelConfig

    kept = any(key in plan.specs for sources in plan.survey.groups.values() for key in sources.values())
    if kept or config.get("model_type") != MODEL_TYPE:
        return config
    return ModelConfig.from_dict(config).merged().to_dict()


def _open_grams(inputs: Inputs, checkpoint: Checkpoint, stack: ExitStack) -> Checkpoint | None:
    """The named Grams, or those beside the checkpoint; None without any, which only the plan can judge."""
    path = Path(inputs.grams) if inputs.grams is not None else sibling_grams(checkpoint)
    if inputs.grams is None and not path.exists():
        return None
    grams = stack.enter_context(open_checkpoint(str(path)))
    digest = grams.about().get("checkpoint")
    if digest is not None and digest != checkpoint.fingerprint():
        fix = f"collect them again: vlmerge grams {inputs.checkpoint} --data ..."
        raise PlanError("the Grams were collected on another checkpoint", where=str(path), fix=fix)
    return grams


def check_output(ready: Prepared, target: Target) -> None:
    """Raises UsageError for an output that exists, cannot be there, or is or holds an input."""
    target.check()
    path = target.path
    taken = {path.resolve()}
    for source in (ready.checkpoint, ready.base, ready.grams):
        for shard in source.shards if source is not None else ():
            at = shard.path.resolve()
            if taken & {at, *at.parents} or (path.exists() and path.samefile(shard.path)):
                raise UsageError(f"the output {path} holds an input: {shard.path}", fix="name another -o/--output")


def _extras(ready: Prepared, about: dict[str, Any], target: Target) -> dict[str, bytes]:
    """Files that a folder gets beside its weights: the input's own small files, its configuration, a card."""
    if target.is_file:
        return {}
    extras: dict[str, bytes] = {}
    for path in sorted(ready.checkpoint.folder.iterdir()) if ready.checkpoint.folder else ():
        carried = path.suffix in CARRIED and not path.name.endswith(".index.json")
        if carried and path.is_file() and path.stat().st_size <= MAX_CARRIED_BYTES:
            extras[path.name] = path.read_bytes()
    if "config" in about:
        extras["config.json"] = (json.dumps(about["config"], indent=2) + "\n").encode()
    extras["README.md"] = _card(ready, about).encode()
    return extras


def _card(ready: Prepared, about: dict[str, Any]) -> str:
    before, after = ready.num_parameters
    steps = about["recipe"]
    settings = ", ".join(f"{name} {value}" for name, value in steps["settings"].items())
    num_merges = sum(isinstance(step, Merge) for step in ready.plan.steps)
    sources = "\n".join(f"- {what}: `{its['name']}` ({its['digest']})" for what, its in steps["inputs"].items())
    return f"""---
tags: [model-merging, vlmerge]
---

# {Path(ready.checkpoint.name).name}, merged

One modality-agnostic transformer made of the {steps["architecture"]} experts of a vision-language model:
{num_merges} slots merged by {steps["method"]} ({settings}), {before:,} parameters before, {after:,} after.

{sources}
"""
