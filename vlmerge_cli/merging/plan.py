"""The plan of a merge: what happens to every key, made and checked from headers alone.

All problems are found here and reported together, before a tensor is read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from vlmerge_cli.checkpoint.dtypes import DTYPES, is_float, stored_type
from vlmerge_cli.checkpoint.header import Spec, Tensor
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.errors import PlanError, UsageError, nearest
from vlmerge_cli.grams.gram_file import sibling_grams, token_counts
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.layouts.survey import Survey
from vlmerge_cli.methods.linalg import packed_size
from vlmerge_cli.methods.method import Method

#: Whether a task uses the top experts (or the others) in layers that have them (reference: only_activate_used_experts).
#: For nlvr2 the published RegMean has Grams of the top expert alone but averages biases and norms over all three; here
#: the top expert is used throughout, as the published interpolation does.
USES_TOP = {"retrieval": False, "vqa": True, "nlvr2": True}


@dataclass(frozen=True)
class Merge:
    """Turn the experts' keys into ``target``; ``base`` and ``grams`` are keys of those files.

    ``tokens`` is how many went into each expert's Gram, where the method asks.
    """

    target: str
    slot: Slot
    sources: Mapping[str, str]
    base: str | None
    grams: Mapping[str, str]
    tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Same:
    """Integers and booleans: copied to ``target`` if all sources are equal, else an error."""

    target: str
    slot: Slot
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Copy:
    """One tensor as it is, under ``target``; its type may change."""

    target: str
    source: str


@dataclass(frozen=True)
class Drop:
    """A tensor that the output does not have, and why."""

    source: str
    reason: str


Step: TypeAlias = Merge | Same | Copy | Drop


@dataclass(frozen=True)
class Plan:
    """``steps`` in file order; every input key is in exactly one. ``specs`` is the output, key by key."""

    method: Method
    survey: Survey
    steps: tuple[Step, ...]
    specs: Mapping[str, Spec]

    @property
    def merges(self) -> list[Merge]:
        return [step for step in self.steps if isinstance(step, Merge)]

    @property
    def solves(self) -> bool:
        """Whether the method takes some slot whole, with linear algebra."""
        return any(not self.method.elementwise(step.slot) for step in self.merges)

    @property
    def num_bytes_out(self) -> int:
        return sum(spec.num_bytes for spec in self.specs.values())


@dataclass(frozen=True)
class Request:
    """What the user asked for besides the method."""

    keep: tuple[str, ...] = ()
    experts_for: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.experts_for is not None and self.experts_for not in USES_TOP:
            raise UsageError(f"--experts-for {self.experts_for}", fix=nearest(self.experts_for, USES_TOP))
        if self.dtype is not None:
            stored_type(self.dtype)


def make_plan(
    checkpoint: NamedTensors,
    survey: Survey,
    method: Method,
    request: Request = Request(),
    base: NamedTensors | None = None,
    grams: NamedTensors | None = None,
    assume_grams: bool = False,
) -> Plan:
    """Decide every key's step. Raises PlanError with all problems, each in a line.

    ``assume_grams``: those that are missing will be collected before the merge, so their lack is no problem.
    """
    where = f"{checkpoint.name} (layout {survey.layout.name})"
    if not survey.groups:
        raise PlanError("the checkpoint is modality-agnostic already: no slot has more than one expert", where=where)
    survey.check_not_quantised("merge", where)
    planner = _Planner(checkpoint, survey, method, request, base, grams, assume_grams)
    steps = planner.steps()
    problems = [*survey.problems(), *planner.problems, *method.problems(survey.experts, survey.layout.top)]
    if problems:
        fix = f"leave slots out with --keep '{planner.unfit[0].label}'" if planner.unfit else ""
        fix = f"say what type comes out (--dtype float32), or {fix}" if planner.num_mixed else fix
        what = f"cannot merge, {len(problems)} problem{'s' * (len(problems) > 1)}:"
        raise PlanError(what, where=where, fix=fix, problems=problems)
    specs = {step.target: planner.output_spec(step) for step in steps if not isinstance(step, Drop)}
    return Plan(method, survey, tuple(steps), specs)


class _Planner:
    """Collects steps and problems while it goes through the groups."""

    def __init__(
        self,
        checkpoint: NamedTensors,
        survey: Survey,
        method: Method,
        request: Request,
        base: NamedTensors | None,
        grams: NamedTensors | None,
        assume_grams: bool,
    ) -> None:
        self.checkpoint, self.survey, self.method, self.request = checkpoint, survey, method, request
        self.base, self.grams, self.assume_grams = base, grams, assume_grams
        self.counts = {} if grams is None else token_counts(grams)
        self.problems: list[str] = []
        self.unfit: list[Slot] = []
        self.num_mixed = 0

    def steps(self) -> list[Step]:
        kept = self._kept()
        steps: list[Step] = [
            Copy(key, key) for key in (*self.survey.single.values(), *self.survey.shared, *self.survey.outside)
        ]
        for slot, sources in self.survey.groups.items():
            if slot in kept:
                steps += [Copy(key, key) for key in sources.values()]
            else:
                steps += self._merge(slot, sources)
        order = {key: place for place, key in enumerate(self.checkpoint.tensors)}
        return sorted(steps, key=lambda step: min(order[key] for key in sources_of(step)))

    def output_spec(self, step: Merge | Same | Copy) -> Spec:
        spec = self._tensor(sources_of(step)[0]).spec
        dtype = self.request.dtype
        return Spec(stored_type(dtype), spec.shape) if dtype and is_float(spec.dtype) else spec

    def _tensor(self, key: str) -> Tensor:
        return self.checkpoint.tensors[key]

    def _kept(self) -> set[Slot]:
        kept: set[Slot] = set()
        for pattern in self.request.keep:
            found = {
                slot
                for slot, sources in self.survey.groups.items()
                if any(
                    fnmatch.fnmatchcase(name, pattern)
                    for name in (slot.label, self.survey.layout.merged_key(slot), *sources.values())
                )
            }
            if not found:
                labels = (slot.label for slot in self.survey.groups)
                self.problems.append(f"--keep {pattern!r} fits no slot; {nearest(pattern, labels)}")
            kept |= found
        return kept

    def _merge(self, slot: Slot, sources: Mapping[str, str]) -> Sequence[Step]:
        target = self.survey.layout.merged_key(slot)
        used, dropped = self._used(slot, sources)
        if not used:
            return []  # said already
        at = f"layer {slot.layer} {slot.name}"
        specs = {expert: self._tensor(key).spec for expert, key in used.items()}
        for what in ("shape", "dtype"):
            values = {expert: getattr(spec, what) for expert, spec in specs.items()}
            mixed = what == "dtype" and all(is_float(spec.dtype) for spec in specs.values())
            if len(set(values.values())) > 1 and not (mixed and self.request.dtype):
                self.unfit.append(slot)
                self.num_mixed += mixed
                self.problems.append(f"{at}: " + ", ".join(f"{e} is {value}" for e, value in values.items()))
                return []
        if len(used) == 1:
            return [*dropped, Copy(target, next(iter(used.values())))]
        spec = next(iter(specs.values()))
        kind = DTYPES[spec.dtype].kind
        if kind in ("integer", "boolean"):
            return [*dropped, Same(target, slot, used)]
        if kind != "float":
            self.unfit.append(slot)
            self.problems.append(f"{at}: {spec.dtype} can be copied, not merged")
            return []
        grams = self._grams(slot, used, spec, at)
        tokens = self._tokens(slot, grams, at)
        return [*dropped, Merge(target, slot, used, self._base(slot, spec, at), grams, tokens)]

    def _used(self, slot: Slot, sources: Mapping[str, str]) -> tuple[dict[str, str], list[Drop]]:
        """Sources that take part, and those that ``--experts-for`` leaves out of layers with a top expert."""
        task = self.request.experts_for
        if task is None or not set(self.survey.experts[slot.layer]) & set(self.survey.layout.top):
            return dict(sources), []
        top = self.survey.layout.top
        used = {expert: key for expert, key in sources.items() if (expert in top) == USES_TOP[task]}
        if not used:
            self.problems.append(f"layer {slot.layer} {slot.name}: no expert that {task} uses")
        return used, [Drop(key, f"not used for {task}") for e, key in sources.items() if e not in used]

    def _base(self, slot: Slot, spec: Spec, at: str) -> str | None:
        if not self.method.needs_base:
            return None
        key = self.survey.layout.merged_key(slot)
        if self.base is None:
            if not any("--base" in problem for problem in self.problems):
                self.problems.append(f"{self.method.name} needs the weights the experts started from: --base CKPT")
        elif not any(self.survey.layout.merged_key(other) in self.base.tensors for other in self.survey.groups):
            if not any("the base" in problem for problem in self.problems):
                what = f"the base {self.base.name} has no {key} nor any other merged slot"
                self.problems.append(f"{what}: it must be modality-agnostic")
        elif key not in self.base.tensors:
            self.problems.append(f"{at}: the base {self.base.name} has no {key}")
        elif self.base.tensors[key].shape != spec.shape:
            self.problems.append(f"{at}: experts are {spec.shape}, the base is {self.base.tensors[key].shape}")
        elif not is_float(self.base.tensors[key].dtype):
            self.problems.append(f"{at}: the base is {self.base.tensors[key].dtype}")
        return key

    def _grams(self, slot: Slot, used: Mapping[str, str], spec: Spec, at: str) -> dict[str, str]:
        if not self.method.needs_grams(slot):
            return {}
        if len(spec.shape) != 2:
            self.problems.append(f"{at}: a linear weight has two dimensions, this one is {spec.shape}")
            return {}
        if self.grams is None:
            if self.assume_grams:
                return {}
            if not any("--grams" in problem for problem in self.problems):
                name, path = self.checkpoint.name, sibling_grams(self.checkpoint)
                self.problems.append(
                    f"{self.method.name} needs Gram matrices and {path} does not exist:"
                    f" collect them with vlmerge grams {name} --data ..., or name a file with --grams"
                )
            return {}
        found = {}
        for expert in used:
            keys = self.survey.layout.gram_keys(slot, expert)
            held = [key for key in keys if key in self.grams.tensors]
            if not held:
                self.problems.append(f"{at}: no Gram of expert {expert} ({' or '.join(dict.fromkeys(keys))})")
                continue
            found[expert] = held[0]
            gram, width = self.grams.tensors[held[0]], spec.shape[1]
            if gram.shape not in ((width, width), (packed_size(width),)):
                self.problems.append(f"{at}: the input is {width} wide, the Gram of {expert} is {gram.shape}")
            elif not is_float(gram.dtype):
                self.problems.append(f"{at}: the Gram of {expert} is {gram.dtype}")
        return found

    def _tokens(self, slot: Slot, grams: Mapping[str, str], at: str) -> dict[str, int]:
        if not self.method.needs_tokens(slot):
            return {}
        found = {expert: self.counts[key] for expert, key in grams.items() if key in self.counts}
        missing = [expert for expert in grams if expert not in found]
        if missing:
            what = f"{at}: the file does not say how many tokens are in the Gram of {', '.join(missing)}"
            self.problems.append(f"{what}: --weigh tokens, or collect anew")
        return found


def sources_of(step: Step) -> list[str]:
    """Input keys of a step."""
    return list(step.sources.values()) if isinstance(step, Merge | Same) else [step.source]
