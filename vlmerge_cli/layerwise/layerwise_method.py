"""Layer by layer as a method of ``vlmerge merge``: the slots that the walk has fitted, the plain average elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods.method import Array, Group, Method, option


@dataclass(frozen=True)
class Layerwise(Method):
    """Each linear map by least squares on what the merged layers below feed it, with its bias (layerwise/walk.py).

    W̃ minimises Σₖ wₖ / N_k Σ ‖W̃ x̃ - y‖² + ρ s ‖W̃ - W̃₀‖² over the streams k of the running model, from the first
    layer to the last: x̃ is the merged model's own input, y what the expert says (qkv, fc1) or what the merged stream
    still lacks (proj, fc2). Norms and all else are the plain average W̃₀. Needs data, no labels.

    ``values`` are the fitted slots, ``fitted_on`` says on what.
    """

    name: ClassVar[str] = "layerwise"

    joint: float = option(4.0, "--joint-weight", "Of the joint stream, beside 1 for texts and images alone.", low=0)
    second: float = option(0.1, "--second-weight", "Of the streams of ITC's second path.", low=0)
    ridge: float = option(1e-6, "--ridge", "Draws towards the average, relative to the mean of the diagonal.", low=0)
    values: Mapping[Slot, Array] = field(default_factory=dict)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def elementwise(self, slot: Slot) -> bool:
        return slot not in self.values

    def learnt(self) -> dict[str, Any]:
        return {"fitted_on": dict(self.fitted_on)} if self.fitted_on else {}

    def __call__(self, group: Group) -> Array:
        if group.slot in self.values:
            return self.values[group.slot]
        return sum(group.experts.values()) / len(group.experts)
