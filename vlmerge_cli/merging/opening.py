"""A merge made ready: its inputs open, its layout found, its plan made and checked, before anything is done.

A checkpoint is opened here once and handed down. Where Grams are missing and the checkpoint says on what data it was
trained, the plan is made as if they were there; ``completed`` collects them once everything else is known to be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vlmerge_cli import console
from vlmerge_cli.checkpoint.dtypes import is_parameter
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.errors import DataError, PlanError, UsageError
from vlmerge_cli.grams.gram_file import recorded_data, sibling_grams
from vlmerge_cli.layouts.layout import Layout, Slot
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.merging.plan import Plan, Request, make_plan
from vlmerge_cli.methods.method import Method
from vlmerge_cli.outputs.replacing import hub_name, in_hub_cache

#: Stands for any linear slot when a method is asked whether it ever needs Grams.
ANY_LINEAR = (Slot(0, "weight", "linear"),)


@dataclass(frozen=True)
class Inputs:
    """What a merge reads, as the user names it; Grams default to the sibling ``NAME.grams.safetensors``."""

    checkpoint: str
    base: str | None = None
    grams: str | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked plan with its open inputs, which ``stack`` closes; ``to_collect``: the data of Grams still missing."""

    plan: Plan
    checkpoint: Checkpoint
    base: Checkpoint | None
    grams: Checkpoint | None
    reason: str
    request: Request
    stack: ExitStack
    to_collect: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> tuple[int, int]:
        """Parameters (elements of floating tensors) before and after."""
        before = sum(t.num_elements for t in self.checkpoint.tensors.values() if is_parameter(t.dtype))
        after = sum(s.num_elements for s in self.plan.specs.values() if is_parameter(s.dtype))
        return before, after

    def check_unchanged(self) -> None:
        """Raises CheckpointError when an input changed since it was opened."""
        for source in self.sources:
            source.check_unchanged()

    @property
    def sources(self) -> list[Checkpoint]:
        return [source for source in (self.checkpoint, self.base, self.grams) if source is not None]


@contextmanager
def prepared(inputs: Inputs, method: Method, request: Request, with_grams: bool = False) -> Iterator[Prepared]:
    """Open the inputs, find the layout and make the plan. Raises what those raise.

    ``with_grams`` asks for the Grams of a method that does not need them (for a report).
    """
    with several(inputs, [method], request, with_grams) as ready:
        yield ready[0]


@contextmanager
def several(
    inputs: Inputs, methods: Sequence[Method], request: Request, with_grams: bool = False
) -> Iterator[list[Prepared]]:
    """The same inputs, opened once, for several methods."""
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(inputs.checkpoint))
        survey, reason = find(checkpoint.tensors, inputs.layout, inputs.checkpoint)
        prefix, count = survey.second_copy
        if count:
            what = f"a second copy of {count} tensors of experts lies under {prefix!r} and is not merged"
            console.warn(f"{inputs.checkpoint}: {what}; it is copied as it is")
        base = _open_base(inputs, methods[0], stack)
        asked = with_grams or any(method.needs_grams(slot) for method in methods for slot in survey.groups)
        grams: Checkpoint | None = None
        to_collect: tuple[str, ...] = ()
        if asked:
            grams = _open_grams(inputs, checkpoint, stack)
            to_collect = recorded_data(checkpoint) if grams is None and inputs.grams is None else ()
            if grams is None and with_grams and not to_collect:
                fix = f"collect them: vlmerge grams {inputs.checkpoint} --data SOURCE; or name a file with --grams"
                raise PlanError("--report needs Gram matrices", where=str(sibling_grams(checkpoint)), fix=fix)
        elif inputs.grams is not None and not any(
            method.needs_grams(slot) for method in methods for slot in ANY_LINEAR
        ):
            what = f"--grams belongs to regmean, --alpha auto and --report; {methods[0].name} does not use it"
            raise UsageError(what)
        plans = [make_plan(checkpoint, survey, one, request, base, grams, bool(to_collect)) for one in methods]
        yield [Prepared(plan, checkpoint, base, grams, reason, request, stack, to_collect) for plan in plans]


def completed(ready: Sequence[Prepared], device: str) -> list[Prepared]:
    """The same with the Grams that were missing, collected on the data that the checkpoint records; announced.

    They are kept beside the checkpoint, where the next merge finds them. Raises PlanError when the data is not at
    hand, and what collecting raises.
    """
    first = ready[0]
    if not first.to_collect:
        return list(ready)
    from vlmerge_cli.grams.from_data import Choices, collect

    survey, path, name = first.plan.survey, sibling_grams(first.checkpoint), first.checkpoint.name
    console.say(f"no Gram matrices beside {name}: collecting {path.name} on {', '.join(first.to_collect)}")
    try:
        collect(first.checkpoint, survey, Target(path), Choices(data=first.to_collect, device=device))
    except DataError as error:
        fix = f"collect them on other data: vlmerge grams {name} --data SOURCE"
        what = f"no Gram matrices, and the data of the checkpoint cannot be used: {error.what}"
        raise PlanError(what, where=error.where, fix=fix) from None
    grams = first.stack.enter_context(open_checkpoint(str(path)))
    return [
        replace(
            one,
            plan=make_plan(one.checkpoint, survey, one.plan.method, one.request, one.base, grams),
            grams=grams,
            to_collect=(),
        )
        for one in ready
    ]


def check_output(ready: Prepared, target: Target) -> None:
    """Raises UsageError for an output that exists, cannot be there, or is or holds an input."""
    target.check(shard.path for source in ready.sources for shard in source.shards)


def default_output(checkpoint: Checkpoint) -> Path:
    """``ckpt.merged.safetensors`` beside a file, ``folder.merged`` beside a folder; for a Hub cache it is here."""
    path = checkpoint.path
    if in_hub_cache(path.absolute()):
        return Path(hub_name(path.absolute()) + ".merged")
    if checkpoint.folder is None:
        return path.with_name(path.name.removesuffix(".safetensors") + ".merged.safetensors")
    return path.resolve().with_name(path.resolve().name + ".merged")


def _open_base(inputs: Inputs, method: Method, stack: ExitStack) -> Checkpoint | None:
    if inputs.base is None:
        return None
    if not method.needs_base:
        raise UsageError(f"--base belongs to arithmetic, {method.name} does not use it")
    return stack.enter_context(open_checkpoint(inputs.base))


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
