"""Distances between two experts of a checkpoint: which tensors they are over, and what the sums come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmerge_cli.checkpoint.dtypes import is_float, is_parameter
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.distances import scan
from vlmerge_cli.distances.scan import Piece, pieces_of
from vlmerge_cli.errors import PlanError, UsageError, nearest
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.layouts.survey import Survey
from vlmerge_cli.metrics.all_sums import Sums

#: What a row may stand for; the key that a slot falls under.
GROUPINGS: dict[str, Callable[[Slot], str]] = {
    "layer": lambda slot: f"layer {slot.layer}",
    "module": lambda slot: slot.module,
    "slot": lambda slot: slot.label,
}


@dataclass(frozen=True)
class Distance:
    """The distances of ``METRICS`` over ``num_weights`` pairs of entries; ``values["tssd"]`` is also ``tssd``."""

    at: str
    num_weights: int
    values: Mapping[str, float] = field(hash=False)

    def __getattr__(self, name: str) -> float:
        try:
            return self.__dict__["values"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def to_dict(self) -> dict[str, Any]:
        """Without levels, as documents and records have it."""
        return {"at": self.at, "num_weights": self.num_weights, **self.values}


@dataclass(frozen=True)
class Distances:
    """Between two experts: of the whole, and row by row, the worst first (by TSSD, then SSD)."""

    pair: tuple[str, str]
    whole: Distance
    rows: tuple[Distance, ...]


def pairs(survey: Survey) -> list[tuple[str, str]]:
    """Every pair of experts that some layer has, in the layout's order."""
    names = list(survey.layout.experts)
    return [
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if any({a, b} <= set(its) for its in survey.experts.values())
    ]


def parse_pair(text: str, survey: Survey) -> tuple[str, str]:
    """``v,l`` as a pair of experts that exist together. Raises UsageError."""
    known = {",".join(pair): pair for pair in pairs(survey)}
    turned = ",".join(reversed([part.strip() for part in text.split(",")]))
    found = known.get(text.replace(" ", "")) or known.get(turned)
    if found is None:
        raise UsageError(f"--pair {text}: no layer has both", fix=nearest(text, [*known, "all"]))
    return found


def measure(
    checkpoint: NamedTensors,
    survey: Survey,
    pair: tuple[str, str],
    by: str = "layer",
    truncate: float = 0.5,
    weights_only: bool = False,
    threads: int = 2,
    advance: Callable[[int], object] = lambda _: None,
    device: str = "cpu",
) -> Distances:
    """Distances over all per-expert tensors of the blocks, biases and norms included unless ``weights_only``.

    ``truncate`` is the share of entries that TSSD zeroes in each vector: k = floor(truncate · n), ties at the
    threshold included. Raises PlanError for experts that do not fit together, MergeError for NaN or infinity.
    """
    pieces = _pieces(checkpoint, survey, pair, weights_only)
    slots = scan.scan(checkpoint, pieces, truncate, threads, advance, device)
    rows: dict[str, Sums] = {}
    for slot, sums in slots.items():
        at = GROUPINGS[by](slot)
        rows[at] = rows.get(at, Sums()) + sums
    table = [_distance(at, sums) for at, sums in rows.items()]
    worst_first = sorted(table, key=lambda row: (-row.tssd, -row.ssd))
    return Distances(pair, _distance("all", sum(slots.values(), Sums())), tuple(worst_first))


def num_bytes_read(checkpoint: NamedTensors, survey: Survey, pair: tuple[str, str], weights_only: bool = False) -> int:
    """What ``measure`` will tell ``advance`` of, in all. Raises PlanError as it does."""
    return scan.num_bytes_read(checkpoint, _pieces(checkpoint, survey, pair, weights_only))


def _pieces(checkpoint: NamedTensors, survey: Survey, pair: tuple[str, str], weights_only: bool) -> list[Piece]:
    survey.check_not_quantised("measure", checkpoint.name)
    problems = survey.problems()
    pieces: list[Piece] = []
    compared = False
    order = {key: place for place, key in enumerate(checkpoint.tensors)}
    for slot, keys in sorted(survey.groups.items(), key=lambda item: min(order[k] for k in item[1].values())):
        if not set(pair) <= set(keys) or (weights_only and slot.kind != "linear"):
            continue
        one, two = (checkpoint.tensors[keys[expert]] for expert in pair)
        if one.shape != two.shape:
            problems.append(f"layer {slot.layer} {slot.name}: {pair[0]} is {one.shape}, {pair[1]} is {two.shape}")
        elif unfit := [t.dtype for t in (one, two) if is_parameter(t.dtype) and not is_float(t.dtype)]:
            problems.append(f"layer {slot.layer} {slot.name}: {unfit[0]} can be copied, not measured")
        elif is_float(one.dtype) and is_float(two.dtype):
            compared = True
            pieces += pieces_of(slot, (keys[pair[0]], keys[pair[1]]), one.num_elements)
    if not compared and not problems:
        problems.append(
            "nothing to compare: " + ("no linear weight" if weights_only else "no slot") + " has both experts"
        )
    if problems:
        raise PlanError("cannot measure:", where=checkpoint.name, problems=problems)
    return pieces


def _distance(at: str, sums: Sums) -> Distance:
    return Distance(at, sums.ssd.count, sums.values())
