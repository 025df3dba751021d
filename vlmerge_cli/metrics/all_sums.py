"""All that is added up over pairs of entries of two experts, and the distances that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from vlmerge_cli.metrics import METRICS
from vlmerge_cli.metrics.l2_cosine import Pairwise
from vlmerge_cli.metrics.soft_sign import Sign


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of all distances over some pairs; those of two parts add up.

    ``own`` are the sums that a distance brings with it, by the "module:Class" that ``METRICS`` names.
    """

    pairwise: Pairwise = field(default_factory=Pairwise)
    ssd: Sign = field(default_factory=Sign)
    tssd: Sign = field(default_factory=Sign)
    own: Mapping[str, Any] = field(default_factory=lambda: {place: _class(place)() for place in _own_places()})

    def __add__(self, other: Sums) -> Sums:
        own = {place: sums + other.own[place] for place, sums in self.own.items()}
        return Sums(self.pairwise + other.pairwise, self.ssd + other.ssd, self.tssd + other.tssd, own)

    def values(self) -> dict[str, float]:
        """Every distance of ``METRICS``."""
        return {name: float(getattr(self._of(metric.sums), metric.value)) for name, metric in METRICS.items()}

    def _of(self, place: str) -> Any:
        return self.own[place] if place in self.own else getattr(self, place)


def own_sums(x: Any, y: Any) -> dict[str, Any]:
    """For a chunk of two vectors, the sums that distances bring with them."""
    return {place: _class(place).of(x, y) for place in _own_places()}


def _own_places() -> list[str]:
    return [metric.sums for metric in METRICS.values() if ":" in metric.sums]


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
