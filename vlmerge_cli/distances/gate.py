"""Limits on distances that a user sets, for scripts that stop where experts are too far apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from vlmerge_cli.distances.measure import Distances
from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.metrics import METRICS


def parse_limits(limits: Iterable[str]) -> dict[str, float]:
    """``tssd=0.02`` as a metric and its limit. Raises UsageError."""
    found = {}
    for limit in limits:
        name, _, text = limit.partition("=")
        if name not in METRICS:
            raise UsageError(f"--fail-above {limit}", fix=nearest(name, METRICS))
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if math.isnan(found[name]):
            raise UsageError(f"--fail-above {limit}", fix=f"write it as {name}=0.02")
    return found


def gate(distances: Distances, limits: Mapping[str, float]) -> list[str]:
    """A sentence for every limit that the whole exceeds."""
    values = {name: distances.whole.values[name] for name in limits}
    pair = ",".join(distances.pair)
    return [
        f"{name} of {pair} is {values[name]:.6g}, above {most:g}"
        for name, most in limits.items()
        if values[name] > most
    ]
