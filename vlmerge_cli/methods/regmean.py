"""RegMean: the linear weight whose outputs stay closest to every expert's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmerge_cli.errors import MergeError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.linalg import gram_of
from vlmerge_cli.methods.method import WEIGHTS, Array, Group, Method, option

# Beyond this a relative error of 1e-16 in the Grams is one of 1e-3 in the weights.
MAX_CONDITION = 1e13


@dataclass(frozen=True)
class RegMean(Method):
    """Linear weights minimise Σₘ ‖(W - Wᵐ) Xᵐᵀ‖²; everything else is the plain average.

    With W of shape (out, in), Gᵐ = Xᵐᵀ Xᵐ of shape (in, in) and G̃ᵐ = γ Gᵐ + (1-γ) diag(Gᵐ),

        W = (Σₘ Wᵐ G̃ᵐ) S⁻¹,  S = Σₘ G̃ᵐ,

    computed in float64 as W¹ + (Σₘ (Wᵐ - W¹) G̃ᵐ) S⁻¹ by Cholesky, which saves one product and keeps what the
    experts agree on exact. ``ridge`` ρ adds ρ mean(diag S) / n to the diagonal of each of the n Grams: directions
    that no token has seen then get the plain average.

    ``weigh`` decides what an expert with more tokens counts for: ``tokens`` takes the sums as they are (published),
    so that images, with ten times the tokens of their captions, count ten times as much; ``equal`` divides each
    Gram by its number of tokens first.

    Source: paper section 4.1; Jin et al., 2023. Raises MergeError when S is singular or its condition number
    exceeds 1e13.
    """

    name: ClassVar[str] = "regmean"

    gamma: float = option(0.9, "--gamma", "Factor on the off-diagonal entries of the Grams.", low=0, high=1)
    ridge: float = option(0.0, "--ridge", "Added to the Grams' diagonal, relative to its mean.", low=0)

    weigh: str = option(
        "tokens",
        "--weigh",
        "Raw sums (an expert counts for as much as it has tokens), or each Gram divided by its tokens.",
        kind=str,
        choices=WEIGHTS,
    )

    def elementwise(self, slot: Slot) -> bool:
        return slot.kind != "linear"

    def needs_grams(self, slot: Slot) -> bool:
        return slot.kind == "linear"

    def needs_tokens(self, slot: Slot) -> bool:
        return slot.kind == "linear" and self.weigh == "equal"

    def __call__(self, group: Group) -> Array:
        if group.slot.kind != "linear":
            return sum(group.experts.values()) / len(group.experts)
        first, *others = group.experts
        origin = linalg.as_float64(group.experts[first])
        moves = {expert: linalg.as_float64(group.experts[expert]) - origin for expert in others}
        system, right = self._scaled(group, first), 0.0
        for expert, move in moves.items():
            gram = self._scaled(group, expert)
            system += gram
            right = right + move @ gram
        if self.ridge:
            step = self.ridge * (float(_diagonal(system).mean()) or 1.0)  # all inputs dead: any step gives the average
            _diagonal(system)[:] += step
            right = right + step / len(group.experts) * sum(moves.values())
        solution = linalg.solve(system, right)
        if solution.value is None or solution.condition > MAX_CONDITION:
            raise self._singular(group, solution.condition)
        return origin + solution.value

    def _scaled(self, group: Group, expert: str) -> Array:
        """G̃ as a new (in, in) float64 array."""
        full = gram_of(group, expert, self.weigh)
        kept = linalg.as_float64(_diagonal(full))
        full *= self.gamma
        _diagonal(full)[:] = kept
        return full

    def _singular(self, group: Group, condition: float) -> MergeError:
        system = sum(self._scaled(group, expert) for expert in group.experts)
        condition = min(condition, linalg.condition(system))
        estimate = f"{condition:.1e}" if condition < 1e17 else "beyond 1e17"
        dead = int((_diagonal(system) == 0).sum())
        what = f"layer {group.slot.layer} {group.slot.name}: the sum of the Grams is singular or nearly so"
        what += f" (condition number {estimate}{f', {dead} inputs never active' if dead else ''})"
        ridge = 100 * self.ridge if self.ridge else 1e-6
        fixes = [f"give directions without data the plain average: --ridge {ridge:g}"]
        if self.gamma == 1:
            fixes.append("or weaken the off-diagonal entries: --gamma 0.9")
        return MergeError(what, fix=", ".join(fixes))


def _diagonal(square: Array) -> Array:
    """The diagonal as a view that can be written to."""
    return square.reshape(-1)[:: len(square) + 1]
