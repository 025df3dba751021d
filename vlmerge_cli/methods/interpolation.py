"""Interpolation: a weighted average of the experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmerge_cli.methods.method import Array, Group, Method, option


@dataclass(frozen=True)
class Interpolation(Method):
    """W = α Wᵛ + (1-α) Wˡ, and with a cross-modal expert W = (1-r)(α Wᵛ + (1-α) Wˡ) + r Wᵛˡ.

    Source: paper section 4.1, where r = 1/3; the paper recommends α = 0.75 or 0.5. Where ``v`` or ``l`` is left
    out, the other one has the whole share 1-r.
    """

    name: ClassVar[str] = "interpolation"

    alpha: float = option(0.5, "--alpha", "Share of the vision expert against the language expert.", low=0, high=1)
    vl_ratio: float = option(
        1 / 3, "--vl-ratio", "Share of the cross-modal expert in layers that have one.", low=0, high=1
    )

    def __call__(self, group: Group) -> Array:
        experts = dict(group.experts)
        top = experts.pop("vl", None)
        if {"v", "l"} <= set(experts):
            merged = self.alpha * experts["v"] + (1 - self.alpha) * experts["l"]
        else:
            merged = sum(experts.values()) / len(experts)
        return merged if top is None else (1 - self.vl_ratio) * merged + self.vl_ratio * top
