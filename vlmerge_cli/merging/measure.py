"""Distances between two experts of a checkpoint, streamed: nothing is concatenated, memory is bounded.

The first pass gives L2, cosine and SSD of every slot and counts the leading bits of all magnitudes. One more
pass gives TSSD: pairs near a threshold that is not exact yet are set aside and settled at its end. Only where
too many entries share their leading bits does another counting pass come between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.dtypes import is_float, is_parameter, num_bytes
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.errors import MergeError, PlanError, UsageError, joined, nearest
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.layouts.survey import Survey
from vlmerge_cli.merging import parallel
from vlmerge_cli.merging.arrays import NumpyArrays
from vlmerge_cli.metrics import METRICS, select
from vlmerge_cli.metrics.pairwise import Pairwise
from vlmerge_cli.metrics.select import Bracket
from vlmerge_cli.metrics.sign import Sign, soft_sign, truncated

Vector = np.ndarray[Any, Any]

#: What a row may stand for; the key that a slot falls under.
GROUPINGS: dict[str, Callable[[Slot], str]] = {
    "layer": lambda slot: f"layer {slot.layer}",
    "module": lambda slot: slot.module,
    "slot": lambda slot: slot.label,
}


@dataclass(frozen=True)
class Distance:
    """The four distances over ``num_weights`` pairs of entries."""

    at: str
    num_weights: int
    l2: float
    cosine: float
    ssd: float
    tssd: float


@dataclass(frozen=True)
class Distances:
    """Between two experts: of the whole, and row by row, the worst first (by TSSD, then SSD)."""

    pair: tuple[str, str]
    whole: Distance
    rows: tuple[Distance, ...]


@dataclass(frozen=True)
class Piece:
    """Entries ``first`` to ``first + count`` of one slot's two tensors."""

    slot: Slot
    keys: tuple[str, str]
    first: int
    count: int


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
    checkpoint: Checkpoint,
    survey: Survey,
    pair: tuple[str, str],
    by: str = "layer",
    truncate: float = 0.5,
    weights_only: bool = False,
    threads: int = 2,
    advance: Callable[[int], object] = lambda _: None,
) -> Distances:
    """Distances over all per-expert tensors of the blocks, biases and norms included unless ``weights_only``.

    ``truncate`` is the share of entries that TSSD zeroes in each vector: k = floor(truncate · n), ties at the
    threshold included. Raises PlanError for experts that do not fit together, MergeError for NaN or infinity.
    """
    pieces = _pieces(checkpoint, survey, pair, weights_only)
    stream = _Stream(checkpoint, pieces, threads, advance)
    dtypes = {checkpoint.tensors[key].dtype for piece in pieces for key in piece.keys}
    stream.wide = "float64" if "F64" in dtypes else "float32"
    size = sum(piece.count for piece in pieces)
    brackets = [select.start(size, truncate, dtypes) for _ in pair] if size else []

    first = stream.run(partial(_FirstPass, brackets))
    for piece, (sums, _) in zip(pieces, (result.sums for result in first), strict=True):
        if not math.isfinite(sums.dd + sums.xx + sums.yy):
            raise MergeError(f"NaN or infinity in {' or '.join(piece.keys)}", where=checkpoint.name)
    brackets = _narrowed(brackets, first)
    while not all(bracket.is_small for bracket in brackets):
        brackets = _narrowed(brackets, stream.run(partial(_CountPass, brackets)))
    last = stream.run(partial(_LastPass, brackets, stream.wide))
    signs = _settled(last, brackets, stream.wide)

    slots: dict[Slot, list[tuple[Pairwise, Sign, Sign]]] = {}
    for piece, result, tssd in zip(pieces, first, signs, strict=True):
        slots.setdefault(piece.slot, []).append((*result.sums, tssd))
    rows: dict[str, list[tuple[Pairwise, Sign, Sign]]] = {}
    for slot, found in slots.items():
        rows.setdefault(GROUPINGS[by](slot), []).extend(found)
    table = [_distance(at, found) for at, found in rows.items()]
    worst_first = sorted(table, key=lambda row: (-row.tssd, -row.ssd))
    return Distances(pair, _distance("all", [f for found in slots.values() for f in found]), tuple(worst_first))


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
    values = {name: getattr(distances.whole, name) for name in limits}
    pair = ",".join(distances.pair)
    return [
        f"{name} of {pair} is {values[name]:.6g}, above {most:g}"
        for name, most in limits.items()
        if values[name] > most
    ]


def _pieces(checkpoint: Checkpoint, survey: Survey, pair: tuple[str, str], weights_only: bool) -> list[Piece]:
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
            chunk = NumpyArrays.chunk_elements
            pieces += [
                Piece(slot, (keys[pair[0]], keys[pair[1]]), start, min(chunk, one.num_elements - start))
                for start in range(0, one.num_elements, chunk)
            ]
    if not compared and not problems:
        problems.append(
            "nothing to compare: " + ("no linear weight" if weights_only else "no slot") + " has both experts"
        )
    if problems:
        raise PlanError(f"cannot measure:\n  {joined(problems)}", where=checkpoint.name)
    return pieces


@dataclass
class _Stream:
    """Runs a pass over all pieces."""

    checkpoint: Checkpoint
    pieces: list[Piece]
    threads: int
    advance: Callable[[int], object]
    wide: str = "float32"

    def run(self, make_pass: Callable[[], Callable[[Piece, Vector, Vector], Any]]) -> list[Any]:
        def worker() -> Callable[[Piece], Any]:
            arrays, over = NumpyArrays(), make_pass()

            def do(piece: Piece) -> Any:
                x, y = (
                    arrays.load(name, self.checkpoint, key, piece.first, piece.count, self.wide)
                    for name, key in zip("xy", piece.keys, strict=True)
                )
                return over(piece, x, y)

            return do

        return parallel.run(worker, self.pieces, self.threads, self._bytes, self.advance)

    def _bytes(self, piece: Piece) -> int:
        return sum(num_bytes(self.checkpoint.tensors[key].dtype, piece.count) for key in piece.keys)


@dataclass(frozen=True)
class _Counted:
    """What a counting pass found in one piece; histograms are one thread's own and shared by its pieces."""

    sums: tuple[Pairwise, Sign]
    histograms: tuple[Vector, ...]


class _CountPass:
    """Adds the next digit of each magnitude to this thread's histograms."""

    def __init__(self, brackets: list[Bracket]) -> None:
        self.brackets = brackets
        self.histograms = tuple(np.zeros(1 << b.digit_bits, np.int64) for b in brackets)

    def __call__(self, piece: Piece, x: Vector, y: Vector) -> _Counted:
        for bracket, histogram, values in zip(self.brackets, self.histograms, (x, y), strict=True):
            if not bracket.is_small:
                histogram += bracket.histogram(select.codes_of(values))
        return _Counted((Pairwise(), Sign()), self.histograms)


class _FirstPass(_CountPass):
    """Counts, and the sums of L2, cosine and SSD."""

    def __call__(self, piece: Piece, x: Vector, y: Vector) -> _Counted:
        counted = super().__call__(piece, x, y)
        with np.errstate(invalid="ignore", over="ignore"):
            sums = Pairwise.of(x.astype(np.float64), y.astype(np.float64)), soft_sign(x, y)
        return _Counted(sums, counted.histograms)


class _LastPass:
    """TSSD's sums away from the thresholds, and the pairs that lie on one."""

    def __init__(self, brackets: list[Bracket], wide: str) -> None:
        self.bounds = [bracket.bounds() for bracket in brackets]
        self.open = [not bracket.is_exact for bracket in brackets]
        self.limits = [_limit(high, wide) for _, high in self.bounds]

    def __call__(self, piece: Piece, x: Vector, y: Vector) -> tuple[Sign, Vector, Vector]:
        sign = truncated(x, y, *self.limits)
        near = np.zeros(len(x), bool)
        for values, (low, high), unsettled in zip((x, y), self.bounds, self.open, strict=True):
            if unsettled:
                codes = select.codes_of(values)
                near |= (codes >= low) & (codes <= high)
        index = np.flatnonzero(near)
        x_near, y_near = x.take(index), y.take(index)
        aside = truncated(x_near, y_near, *self.limits)
        return Sign(sign.total - aside.total, sign.count - aside.count), x_near, y_near


def _narrowed(brackets: list[Bracket], results: list[_Counted]) -> list[Bracket]:
    """The brackets after a pass: each thread's histograms are added once."""
    own = {id(result.histograms): result.histograms for result in results}
    return [
        bracket if bracket.is_small else bracket.narrowed(np.sum(side, axis=0))
        for bracket, side in zip(brackets, zip(*own.values(), strict=True), strict=True)
    ]


def _settled(last: list[tuple[Sign, Vector, Vector]], brackets: list[Bracket], wide: str) -> list[Sign]:
    """TSSD's sums of each piece, with the pairs that were set aside judged by the exact thresholds."""
    limits = []
    for side, bracket in enumerate(brackets):
        if not bracket.is_exact:
            low, high = bracket.bounds()
            codes = select.codes_of(np.concatenate([result[1 + side] for result in last]))
            bracket = bracket.settle(codes[(codes >= low) & (codes <= high)])
        limits.append(_limit(bracket.threshold_code, wide))
    return [sign + truncated(x, y, *limits) for sign, x, y in last]


def _limit(code: int, wide: str) -> float:
    return -1.0 if code < 0 else select.value_of(code, wide)


def _distance(at: str, found: Iterable[tuple[Pairwise, Sign, Sign]]) -> Distance:
    sums, ssd, tssd = Pairwise(), Sign(), Sign()
    for one, two, three in found:
        sums, ssd, tssd = sums + one, ssd + two, tssd + three
    return Distance(at, ssd.count, sums.l2, sums.cosine, ssd.value, tssd.value)
