"""How far each slot of a merged checkpoint is from keeping the experts' outputs: its RegMean objective.

For a linear slot with experts m and Grams Gᵐ, the objective of a weight W is the squared change of the outputs,

    f(W) = Σₘ ‖(W - Wᵐ) Xᵐᵀ‖² = Σₘ tr((W - Wᵐ) Gᵐ (W - Wᵐ)ᵀ).

Its least value f* is at W* = (Σₘ Wᵐ Gᵐ) S⁺ with S = Σₘ Gᵐ, and f(W) = f* + tr((W - W*) S (W - W*)ᵀ): that form
loses no digits near the optimum. Reported is f(W) / f* of the merged weight, of the plain average and of each
expert put in the place of all, with f* itself as a share of the experts' own outputs Σₘ ‖Wᵐ Xᵐᵀ‖². Gamma, ridge and
weights do not enter: this is the objective on the tokens as they were counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.arrays import NumpyArrays
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.merging.plan import Merge, Plan
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.method import Group
from vlmerge_cli.methods.regmean import MAX_CONDITION
from vlmerge_cli.records import Record

NumpyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Residual:
    """Objectives of one slot, as sums over all tokens: the least possible, and ``of`` merged, average and experts.

    ``outputs`` is the size of what is changed, Σₘ ‖Wᵐ Xᵐᵀ‖².
    """

    slot: Slot
    optimum: float
    outputs: float
    of: Mapping[str, float]

    @property
    def share(self) -> float:
        """Of the experts' outputs that no single weight can keep."""
        return self.optimum / self.outputs if self.outputs else 0.0

    def ratio(self, name: str) -> float:
        """Objective relative to the optimum; 1 where both vanish."""
        if self.optimum > 1e-14 * self.outputs:
            return self.of[name] / self.optimum
        return 1.0 if self.of[name] <= 1e-14 * self.outputs else float("inf")

    def record(self, output: str) -> Record:
        at = {"model": output, "layer": self.slot.layer, "slot": self.slot.name}
        return Record("residual", at, {"optimum": self.optimum, "outputs": self.outputs, **self.of})


def residuals(
    plan: Plan,
    checkpoint: NamedTensors,
    grams: NamedTensors,
    merged: NamedTensors,
    threads: int,
    advance: Callable[[int], object] = lambda _: None,
) -> list[Residual]:
    """Of every merged linear slot whose experts all have a Gram; ``merged`` is the finished output."""
    layout = plan.survey.layout
    wanted: list[tuple[Merge, dict[str, str]]] = []
    for step in plan.merges:
        if step.slot.kind == "linear":
            keys = {e: [k for k in layout.gram_keys(step.slot, e) if k in grams.tensors] for e in step.sources}
            if all(keys.values()):
                wanted.append((step, {expert: found[0] for expert, found in keys.items()}))
    with pool.one_blas_thread():
        return pool.run(
            lambda: lambda piece: _residual(*piece, checkpoint, grams, merged),
            wanted,
            threads,
            lambda piece: sum(checkpoint.tensors[key].num_bytes for key in piece[0].sources.values()),
            advance,
        )


def _residual(
    step: Merge, keys: Mapping[str, str], checkpoint: NamedTensors, grams: NamedTensors, merged: NamedTensors
) -> Residual:
    experts = {expert: _weight(checkpoint, key) for expert, key in step.sources.items()}
    stored = {expert: _weight(grams, key) for expert, key in keys.items()}
    weights = {"merged": _weight(merged, step.target), "average": sum(experts.values()) / len(experts), **experts}
    return objectives(Group(step.slot, experts, grams=stored), weights)


def objectives(group: Group, weights: Mapping[str, Any]) -> Residual:
    """The objective of each of ``weights``, (out, in) float64, against the experts of a group."""
    first, *others = group.experts
    full = {expert: linalg.gram_of(group, expert, "tokens") for expert in group.experts}
    system = sum(full.values())
    right = sum((group.experts[expert] - group.experts[first]) @ full[expert] for expert in others)
    best = group.experts[first] + _solution(system, right)
    optimum = sum(_square(best - weight, full[expert]) for expert, weight in group.experts.items())
    outputs = sum(_square(weight, full[expert]) for expert, weight in group.experts.items())
    found = {name: optimum + _square(weight - best, system) for name, weight in weights.items()}
    return Residual(group.slot, optimum, outputs, found)


def _solution(system: NumpyArray, right: NumpyArray) -> NumpyArray:
    """X of X S = R; where S is singular, the shortest one (any has the same objective)."""
    solution = linalg.solve(system.copy(), right.copy())
    if solution.value is not None and solution.condition <= MAX_CONDITION:
        value: NumpyArray = solution.value
        return value
    values, vectors = np.linalg.eigh(system)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    basis = vectors[:, kept]
    shortest: NumpyArray = ((right @ basis) / values[kept]) @ basis.T
    return shortest


def _square(weight: NumpyArray, gram: NumpyArray) -> float:
    """tr(W G Wᵀ), not below 0."""
    return max(0.0, float(((weight @ gram) * weight).sum()))


def _weight(source: NamedTensors, key: str) -> NumpyArray:
    tensor = source.tensors[key]
    flat = NumpyArrays().load("weight", source, key, 0, tensor.num_elements, "float64")
    return flat.reshape(tensor.shape)
