"""Interpolation: a weighted average of the experts, its weight given or found from the Grams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

from vlmerge_cli.errors import PlanError, UsageError, nearest
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.method import WEIGHTS, Array, Group, Method, option

ALPHA = 0.5


class Slope(NamedTuple):
    """Half the derivative of a slot's objective in α is ``curvature`` α - ``pull``."""

    pull: float
    curvature: float

    @staticmethod
    def total(slopes: Iterable[Slope]) -> Slope:
        slopes = list(slopes)
        return Slope(sum(s.pull for s in slopes), sum(s.curvature for s in slopes))

    @property
    def alpha(self) -> float:
        """Where the objective is least on [0, 1]; 0.5 where every α is as good (equal experts)."""
        return min(1.0, max(0.0, self.pull / self.curvature)) if self.curvature > 0 else 0.5


def parsed_weights(text: str) -> dict[str, float]:
    """``v=0.5,l=0.5`` as numbers of at least 0. Raises UsageError."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[name.strip()] = math.nan
        if not 0 <= found[name.strip()] < math.inf:
            raise UsageError(f"--weights {text}", fix="write --weights v=0.5,l=0.3,vl=0.2 with numbers of at least 0")
    if text and not any(found.values()):
        raise UsageError(f"--weights {text}: every weight is 0", fix="give one of them a weight")
    return found


def _by_rank(experts: Iterable[str], top: Sequence[str]) -> tuple[list[str], list[str]]:
    """The experts of every layer, and those of the top layers alone, each in the layout's order."""
    experts = list(experts)
    return [name for name in experts if name not in top], [name for name in experts if name in top]


def _mean(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else sum(arrays) / len(arrays)


@dataclass(frozen=True)
class Interpolation(Method):
    """W = α Wᵛ + (1-α) Wˡ, and with a cross-modal expert W = (1-r)(α Wᵛ + (1-α) Wˡ) + r Wᵛˡ.

    v and l stand for the layout's first and second expert, vl for those that only its top layers have (they share r).
    Source: paper section 4.1, where r = 1/3; the paper recommends α = 0.75 or 0.5. Where v or l is left out, the other
    one has the whole share 1-r; more than two experts of one rank have equal shares.

    ``weights`` says every expert's share itself, W = Σₘ wₘ Wᵐ / Σₘ wₘ over the experts that a slot has, as
    ``v=0.5,l=0.3,a=0.2``; α and r then have no say.

    ``alpha="auto"`` takes the α in [0, 1] that changes the experts' outputs least, by RegMean's objective

        f(α) = Σₘ ‖(W(α) - Wᵐ) Xᵐᵀ‖² = Σₘ tr((W(α) - Wᵐ) Gᵐ (W(α) - Wᵐ)ᵀ),  m over the slot's experts.

    Written as W(α) = A + α B with B = (1-r)(Wᵛ - Wˡ) and A = (1-r) Wˡ + r Wᵛˡ, it is a parabola in α,

        f'(α) / 2 = Σₘ tr((A - Wᵐ) Gᵐ Bᵀ) + α Σₘ tr(B Gᵐ Bᵀ),

    and its least value is at α* = -Σₘ tr((A - Wᵐ) Gᵐ Bᵀ) / Σₘ tr(B Gᵐ Bᵀ), cut to [0, 1] (the parabola opens
    upwards, so the nearer end is the best one there). The objective of several slots is the sum of theirs, so both
    sums are added up over a layer or the model for one common α. Biases and norms have no Gram: they take their
    layer's. ``weigh`` divides each Gram by its tokens first, as in RegMean.
    """

    name: ClassVar[str] = "interpolation"

    alpha: float | str = option(
        ALPHA,
        "--alpha",
        "Share of the first expert (vision) against the second (language); auto: the best one by the Grams.",
        low=0,
        high=1,
        choices=("auto",),
    )
    vl_ratio: float = option(
        1 / 3, "--vl-ratio", "Share of the cross-modal expert in layers that have one.", low=0, high=1
    )
    auto_by: str = option(
        "slot", "--auto-by", "What --alpha auto finds one alpha for.", kind=str, choices=("slot", "layer", "model")
    )
    weigh: str = option(
        "tokens",
        "--weigh",
        "Raw sums (an expert counts for as much as it has tokens), or each Gram divided by its tokens.",
        kind=str,
        choices=WEIGHTS,
    )
    weights: str = option(
        "", "--weights", "Every expert's weight, as v=0.5,l=0.3,vl=0.2, instead of --alpha.", kind=str
    )
    #: α of each slot, by its label, once ``settle`` has found them.
    alphas: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.alpha != ALPHA:
            raise UsageError("--weights and --alpha both say the experts' shares", fix="give one of them")
        parsed_weights(self.weights)

    @cached_property
    def _weights(self) -> dict[str, float]:
        return parsed_weights(self.weights)

    def __call__(self, group: Group) -> Array:
        experts, top = _by_rank(group.experts, group.top)
        if self.weights:
            shares = self.shares(list(group.experts), group.top, group.slot)
            return sum(shares[expert] * weight for expert, weight in group.experts.items())
        if len(experts) == 2:
            alpha = self.alphas[group.slot.label] if isinstance(self.alpha, str) else self.alpha
            first, second = (group.experts[expert] for expert in experts)
            merged = alpha * first + (1 - alpha) * second
        elif experts:
            merged = sum(group.experts[expert] for expert in experts) / len(experts)
        else:
            return _mean(list(group.experts.values()))
        if not top:
            return merged
        return (1 - self.vl_ratio) * merged + self.vl_ratio * _mean([group.experts[expert] for expert in top])

    def problems(self, experts: Mapping[int, tuple[str, ...]], top: tuple[str, ...]) -> list[str]:
        names = list(dict.fromkeys(name for its in experts.values() for name in its))
        if self.weights:
            wrong = [name for name in self._weights if name not in names]
            lacking = [name for name in names if name not in self._weights]
            problems = [f"--weights names {name!r}: {nearest(name, names)}" for name in wrong]
            if lacking:
                problems.append(f"--weights lacks {', '.join(lacking)} (0 leaves an expert out)")
            for layer, its in experts.items():
                if its and not lacking and not sum(self._weights[name] for name in its):
                    problems.append(f"layer {layer}: every expert there has weight 0")
            return problems
        most = max((_by_rank(its, top)[0] for its in experts.values()), key=len, default=[])
        if len(most) > 2 and self.alpha != ALPHA:
            each = ",".join(f"{name}={1 / len(most):.3g}" for name in names)
            return [f"--alpha is a share between two experts, here are {', '.join(most)}: --weights {each}"]
        return []

    def shares(self, experts: Sequence[str], top: Sequence[str], slot: Slot) -> dict[str, float]:
        if self.weights:
            total = sum(self._weights[expert] for expert in experts)
            return {expert: self._weights[expert] / total for expert in experts}
        ordinary, above = _by_rank(experts, top)
        rest = 1 - self.vl_ratio if above and ordinary else 1.0
        found = dict.fromkeys(ordinary, rest / max(1, len(ordinary)))
        if len(ordinary) == 2:
            alpha = self.alphas.get(slot.label, ALPHA) if isinstance(self.alpha, str) else self.alpha
            found = {ordinary[0]: rest * alpha, ordinary[1]: rest * (1 - alpha)}
        return found | dict.fromkeys(above, (1 - rest if ordinary else 1.0) / max(1, len(above)))

    def needs_grams(self, slot: Slot) -> bool:
        return self.alpha == "auto" and slot.kind == "linear"

    def needs_tokens(self, slot: Slot) -> bool:
        return self.needs_grams(slot) and self.weigh == "equal"

    def examines(self, slot: Slot) -> bool:
        return self.needs_grams(slot)

    def examine(self, group: Group) -> Slope | None:
        """The two sums of α*; None where there is nothing to choose: not two experts of one rank."""
        weights = {expert: linalg.as_float64(weight) for expert, weight in group.experts.items()}
        ordinary, top = _by_rank(weights, group.top)
        if len(ordinary) != 2:
            return None
        first, second = (weights[expert] for expert in ordinary)
        r = self.vl_ratio if top else 0.0
        move = (1 - r) * (first - second)
        origin = (1 - r) * second + (r * _mean([weights[expert] for expert in top]) if r else 0.0)
        slopes = []
        for expert, weight in weights.items():
            moved = move @ linalg.gram_of(group, expert, self.weigh)  # B G
            slopes.append(Slope(-float(((origin - weight) * moved).sum()), float((move * moved).sum())))
        return Slope.total(slopes)

    def settle(self, found: Mapping[Slot, Any], slots: Iterable[Slot]) -> Self:
        """With the α of every slot. Raises PlanError when no linear slot was there to find one from."""
        if self.alpha != "auto":
            return self
        known = {slot: slope for slot, slope in found.items() if slope is not None}
        if not known:
            fix = "give a number: --alpha 0.5"
            raise PlanError("--alpha auto needs a linear weight that two experts hold apart: there is none", fix=fix)
        model = Slope.total(known[slot] for slot in sorted(known))
        layers = {
            layer: Slope.total(known[slot] for slot in sorted(known) if slot.layer == layer)
            for layer in {slot.layer for slot in known}
        }
        alphas = {}
        for slot in slots:
            slope = model if self.auto_by == "model" else layers.get(slot.layer, model)
            if self.auto_by == "slot":
                slope = known.get(slot, slope)
            alphas[slot.label] = slope.alpha
        return replace(self, alphas=alphas)

    def learnt(self) -> dict[str, Any]:
        return {"alphas": dict(self.alphas)} if self.alphas else {}
