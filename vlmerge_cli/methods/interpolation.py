"""Interpolation: a weighted average of the experts, its weight given or found from the Grams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

from vlmerge_cli.errors import PlanError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.method import WEIGHTS, Array, Group, Method, option


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


@dataclass(frozen=True)
class Interpolation(Method):
    """W = α Wᵛ + (1-α) Wˡ, and with a cross-modal expert W = (1-r)(α Wᵛ + (1-α) Wˡ) + r Wᵛˡ.

    Source: paper section 4.1, where r = 1/3; the paper recommends α = 0.75 or 0.5. Where ``v`` or ``l`` is left
    out, the other one has the whole share 1-r.

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
        0.5,
        "--alpha",
        "Share of the vision expert against the language expert; auto: the best one by the Grams.",
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
    #: α of each slot, by its label, once ``settle`` has found them.
    alphas: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, group: Group) -> Array:
        experts = dict(group.experts)
        top = experts.pop("vl", None)
        if {"v", "l"} <= set(experts):
            alpha = self.alphas[group.slot.label] if isinstance(self.alpha, str) else self.alpha
            merged = alpha * experts["v"] + (1 - alpha) * experts["l"]
        else:
            merged = sum(experts.values()) / len(experts)
        return merged if top is None else (1 - self.vl_ratio) * merged + self.vl_ratio * top

    def needs_grams(self, slot: Slot) -> bool:
        return self.alpha == "auto" and slot.kind == "linear"

    def needs_tokens(self, slot: Slot) -> bool:
        return self.needs_grams(slot) and self.weigh == "equal"

    def examines(self, slot: Slot) -> bool:
        return self.needs_grams(slot)

    def examine(self, group: Group) -> Slope | None:
        """The two sums of α*; None where there is nothing to choose, v or l being left out."""
        weights = {expert: linalg.as_float64(weight) for expert, weight in group.experts.items()}
        if not {"v", "l"} <= set(weights):
            return None
        r = self.vl_ratio if "vl" in weights else 0.0
        move = (1 - r) * (weights["v"] - weights["l"])
        origin = (1 - r) * weights["l"] + (r * weights["vl"] if r else 0.0)
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
            raise PlanError("--alpha auto needs a linear weight that v and l hold apart: there is none", fix=fix)
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
