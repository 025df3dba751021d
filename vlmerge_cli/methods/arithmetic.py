"""Modality arithmetic: the base plus scaled modality vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmerge_cli.methods.method import Array, Group, Method, option


@dataclass(frozen=True)
class Arithmetic(Method):
    """W = W⁰ + λ Σₘ (Wᵐ - W⁰), with W⁰ the seed weights that all experts started from.

    Source: paper section 4.1. The published code moves its own origin while it adds, so that with experts
    m₁ ... mₙ in the order v, l, vl it computes instead

        W = (1-λ)ⁿ W⁰ + Σⱼ λ (1-λ)ⁿ⁻ʲ W^{mⱼ}

    (at λ = 1: the last expert alone). ``sequential`` gives that, for published numbers.
    """

    name: ClassVar[str] = "arithmetic"
    needs_base: ClassVar[bool] = True

    lam: float = option(0.5, "--lambda", "Scale of each modality vector.")
    sequential: bool = option(
        False, "--sequential", "As the published code computes it, not as the paper writes it.", kind=bool
    )

    def __call__(self, group: Group) -> Array:
        base = group.base
        assert base is not None, "arithmetic needs a base"
        if self.sequential:
            moved = base
            for weight in group.experts.values():
                moved = moved + self.lam * (weight - moved)
            return moved
        return base + self.lam * sum(weight - base for weight in group.experts.values())
