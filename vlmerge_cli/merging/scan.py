"""Passes over two experts' tensors for the sums of all four distances, until TSSD's thresholds are exact.

A sample brackets the two thresholds. The first pass gives L2, cosine and SSD, and TSSD but for the pairs inside a
bracket: they are set aside, and settled when the pass has seen all. Only where a bracket turns out wrong, or to
hold too many, is it narrowed for another pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.errors import MergeError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.merging import parallel
from vlmerge_cli.merging.arrays import make_arrays
from vlmerge_cli.metrics import select
from vlmerge_cli.metrics.chunk import Chunk, Split
from vlmerge_cli.metrics.pairwise import Pairwise
from vlmerge_cli.metrics.select import Bracket, Codes, Coding
from vlmerge_cli.metrics.sign import Sign, truncated

Vector = np.ndarray[Any, Any]
Brackets = tuple[Bracket, Bracket]
#: Reads so many entries of a piece from an offset, as two vectors.
Load = Callable[[int, int], tuple[Any, Any]]

#: Pairs that are computed with at once: what stays in a processor's cache, and what keeps a GPU busy.
CHUNK, GPU_CHUNK = 1 << 17, 1 << 22
#: The sample takes every so many entries of a stretch: a prime, so that it meets all rows and columns of a matrix.
STRIDE = 13
#: The most of the bytes that the sample reads.
MOST_READ = 0.25
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Entries ``first`` to ``first + count`` of one slot's two tensors."""

    slot: Slot
    keys: tuple[str, str]
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of all four distances over some pairs; those of two parts add up."""

    pairwise: Pairwise = field(default_factory=Pairwise)
    ssd: Sign = field(default_factory=Sign)
    tssd: Sign = field(default_factory=Sign)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.pairwise + other.pairwise, self.ssd + other.ssd, self.tssd + other.tssd)


def pieces_of(slot: Slot, keys: tuple[str, str], num_elements: int, device: str = "cpu") -> list[Piece]:
    """All of one slot, in pieces of the size that suits a device."""
    size = CHUNK if device == "cpu" else GPU_CHUNK
    return [Piece(slot, keys, start, min(size, num_elements - start)) for start in range(0, num_elements, size)]


def scan(
    checkpoint: Checkpoint,
    pieces: list[Piece],
    truncate: float,
    threads: int,
    advance: Callable[[int], object],
    device: str = "cpu",
) -> dict[Slot, Sums]:
    """The sums of each slot, in as few passes over the pieces as it takes; ``advance`` is told the bytes of each.

    Raises MergeError for NaN or infinity.
    """
    stream = _Stream(checkpoint, pieces, threads, advance)
    brackets = _guessed(stream, truncate)
    found = _pass(stream, brackets, device)
    slots: dict[Slot, Sums] = {}
    for piece, result in zip(pieces, found, strict=True):
        if not result.sums.pairwise.is_finite:
            raise MergeError(f"NaN or infinity in {' or '.join(piece.keys)}", where=checkpoint.name)
        slots[piece.slot] = slots.get(piece.slot, Sums()) + result.sums
    while not _settles(brackets, found):
        brackets = _narrowed(brackets, found)
        found = []  # what was set aside makes room
        found = _pass(stream, brackets, device, truncated_only=True)
    limits = _limits(brackets, found)

    near: dict[Slot, list[tuple[Vector, Vector]]] = {}
    for piece, result in zip(pieces, found, strict=True):
        slots[piece.slot] += Sums(tssd=result.split.clear)
        near.setdefault(piece.slot, []).append(result.split.near)
    for slot, pairs in near.items():
        x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
        slots[slot] += Sums(tssd=truncated(x, y, *limits))
    return slots


@dataclass(frozen=True)
class _Stream:
    """The pieces, and how a pass reads them."""

    checkpoint: Checkpoint
    pieces: list[Piece]
    threads: int
    advance: Callable[[int], object]

    @cached_property
    def coding(self) -> Coding:
        return Coding.of({self.checkpoint.tensors[key].dtype for piece in self.pieces for key in piece.keys})

    def run(
        self, make_pass: Callable[[], Callable[[Piece, Load], Any]], device: str = "cpu", share: float = 1
    ) -> list[Any]:
        """Results in the order of the pieces; each thread has a pass of its own, that reads a ``share`` of them."""

        def worker() -> Callable[[Piece], Any]:
            arrays, over = make_arrays(device), make_pass()

            def load(piece: Piece, start: int, count: int) -> tuple[Any, Any]:
                x, y = (
                    arrays.load(name, self.checkpoint, key, piece.first + start, count, self.coding.wide)
                    for name, key in zip("xy", piece.keys, strict=True)
                )
                return x, y

            return lambda piece: over(piece, partial(load, piece))

        return parallel.run(worker, self.pieces, self.threads, self._bytes, lambda n: self.advance(int(share * n)))

    def _bytes(self, piece: Piece) -> int:
        return sum(num_bytes(self.checkpoint.tensors[key].dtype, piece.count) for key in piece.keys)


def _guessed(stream: _Stream, truncate: float) -> Brackets:
    """The brackets of both thresholds, from a sample where there are more pairs than can be set aside."""
    num_elements = sum(piece.count for piece in stream.pieces)
    k = int(truncate * num_elements)
    if num_elements <= select.FEW:
        return select.anywhere(k, stream.coding), select.anywhere(k, stream.coding)
    ratio = min(select.SAMPLE / num_elements, MOST_READ / STRIDE)
    sample = stream.run(lambda: partial(_sample, stream.coding, ratio), share=STRIDE * ratio)
    x, y = (select.guess(k, num_elements, stream.coding, side) for side in zip(*sample, strict=True))
    return x, y


def _sample(coding: Coding, ratio: float, piece: Piece, load: Load) -> list[tuple[Codes, Codes]]:
    """For x and for y the codes of about ``ratio`` of a piece's entries, from one stretch of each of its halves."""
    half = piece.count // 2
    length = min(half, STRIDE * max(1, round(half * ratio)))
    starts = (int((half - length) * (GOLDEN * (piece.first + side * half) % 1)) + side * half for side in (0, 1))
    stretches = [[coding.codes(v[::STRIDE]) for v in load(start, length)] for start in starts]
    return list(zip(*stretches, strict=True))


@dataclass(frozen=True, slots=True)
class _Found:
    """What a pass found in one piece; the histograms are one thread's own and shared by its pieces.

    Of the ``num_near`` pairs near a threshold all are in ``split``, or none: then they are in the histograms.
    """

    sums: Sums
    split: Split
    num_near: int
    histograms: tuple[Vector, ...]


class _Aside:
    """How many pairs the threads have set aside. (That they do not lock it lets a few too many pass.)"""

    num_pairs = 0


class _Pass:
    """Takes the sums of a piece, and sets the pairs near a threshold aside; counts them once these are too many."""

    def __init__(self, chunk: Any, brackets: Brackets, aside: _Aside, truncated_only: bool) -> None:
        self._chunk, self._brackets, self._aside, self._truncated_only = chunk, brackets, aside, truncated_only
        self._histograms = _no_counts()

    def __call__(self, piece: Piece, load: Load) -> _Found:
        x, y = load(0, piece.count)
        if self._truncated_only:
            sums, split = Sums(), self._chunk.truncated(x, y, self._brackets)
        else:
            pairwise, ssd, split = self._chunk(x, y, self._brackets)
            sums = Sums(pairwise, ssd)
        num_near = len(split.near[0])
        self._aside.num_pairs += num_near
        if self._aside.num_pairs > select.FEW:
            _count(self._brackets, split.near, self._histograms)
            split = replace(split, near=(split.near[0][:0].copy(), split.near[1][:0].copy()))
        return _Found(sums, split, num_near, self._histograms)


def make_chunk(device: str, coding: Coding) -> Any:
    """The arithmetic of a device."""
    if device == "cpu":
        return Chunk(CHUNK, coding.wide)
    from vlmerge_cli.metrics.torchchunk import TorchChunk

    return TorchChunk()


def _pass(stream: _Stream, brackets: Brackets, device: str, truncated_only: bool = False) -> list[_Found]:
    aside = _Aside()
    return stream.run(lambda: _Pass(make_chunk(device, stream.coding), brackets, aside, truncated_only), device)


def _totals(found: list[_Found], side: int) -> tuple[int, int]:
    """How many magnitudes of one side lie below and inside its bracket."""
    return sum(result.split.num_below[side] for result in found), sum(result.split.num_inside[side] for result in found)


def _settles(brackets: Brackets, found: list[_Found]) -> bool:
    """Whether both brackets are right and all pairs that they leave open were set aside."""
    right = all(bracket.holds(*_totals(found, side)) for side, bracket in enumerate(brackets))
    return right and sum(result.num_near for result in found) <= select.FEW


def _narrowed(brackets: Brackets, found: list[_Found]) -> Brackets:
    """The brackets after a pass that did not settle them: each thread's histograms are added once."""
    histograms = _no_counts()
    for result in found:
        _count(brackets, result.split.near, histograms)
    for own in {id(result.histograms): result.histograms for result in found}.values():
        for histogram, counts in zip(histograms, own, strict=True):
            histogram += counts
    x, y = (bracket.narrowed(*_totals(found, side), histograms[side]) for side, bracket in enumerate(brackets))
    return x, y


def _no_counts() -> tuple[Vector, Vector]:
    return np.zeros(1 << select.DIGIT_BITS, np.int64), np.zeros(1 << select.DIGIT_BITS, np.int64)


def _count(brackets: Brackets, near: tuple[Vector, Vector], histograms: tuple[Vector, ...]) -> None:
    for bracket, values, histogram in zip(brackets, near, histograms, strict=True):
        if not bracket.is_exact:
            bracket.count(bracket.inside(values), histogram)


def _limits(brackets: Brackets, found: list[_Found]) -> tuple[float, float]:
    """The exact thresholds, from the pairs that were set aside."""
    near = (np.concatenate(side) for side in zip(*(result.split.near for result in found), strict=True))
    x, y = (
        bracket.settled(_totals(found, side)[0], bracket.inside(values)).threshold
        for side, (bracket, values) in enumerate(zip(brackets, near, strict=True))
    )
    return x, y
