"""Passes over two experts' tensors for the sums of all four distances, until TSSD's thresholds are exact.

A sample brackets the two thresholds. The first pass gives L2, cosine and SSD, and TSSD but for the pairs inside a
bracket. Where the brackets hold few codes, a table of those pairs settles them; else they are set aside, and settled
when the pass has seen all. Only where a bracket turns out wrong, or to hold too many, is it narrowed for another pass.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.backend import make_arrays
from vlmerge_cli.errors import MergeError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.metrics import select, tally
from vlmerge_cli.metrics.chunk import Chunk
from vlmerge_cli.metrics.pairwise import Pairwise
from vlmerge_cli.metrics.select import Bracket, Codes, Coding
from vlmerge_cli.metrics.sign import Sign, truncated
from vlmerge_cli.metrics.tally import Tally

Vector = np.ndarray[Any, Any]
Pairs = tuple[Vector, Vector]
Brackets = tuple[Bracket, Bracket]
Histograms = tuple[Vector, Vector]
#: Reads so many entries of a piece from an offset, as two vectors.
Load = Callable[[int, int], tuple[Any, Any]]

#: Pairs whose sums are one result, so that results are few.
PIECE = 1 << 21
#: Pairs that are computed with at once: what stays in a processor's cache, and what keeps a GPU busy.
CHUNK, GPU_CHUNK = 1 << 17, 1 << 21
#: The sample takes every so many entries of a stretch: a prime, so that it meets all rows and columns of a matrix.
STRIDE = 13
#: Of every so many entries the sample takes a pair of stretches; of a long vector, of every n / 2048.
SAMPLED, NUM_SAMPLED = 1 << 18, 2048
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


def pieces_of(slot: Slot, keys: tuple[str, str], num_elements: int) -> list[Piece]:
    """All of one slot."""
    return [Piece(slot, keys, start, min(PIECE, num_elements - start)) for start in range(0, num_elements, PIECE)]


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
    stream = _Stream(checkpoint, pieces, threads, advance, device)
    brackets = _guessed(stream, truncate)
    found = _pass(stream, brackets)
    slots: dict[Slot, Sums] = {}
    for piece, result in zip(pieces, found, strict=True):
        if not result.sums.pairwise.is_finite:
            raise MergeError(f"NaN or infinity in {' or '.join(piece.keys)}", where=checkpoint.name)
        slots[piece.slot] = slots.get(piece.slot, Sums()) + result.sums
    while not _settles(brackets, found):
        brackets = _narrowed(brackets, found)
        found = []  # what was set aside makes room
        found = _pass(stream, brackets, truncated_only=True)
    settled = _settled(brackets, found)

    near: dict[Slot, list[_Found]] = {}
    for piece, result in zip(pieces, found, strict=True):
        slots[piece.slot] += Sums(tssd=result.clear)
        near.setdefault(piece.slot, []).append(result)
    for slot, results in near.items():
        slots[slot] += Sums(tssd=_truncated(brackets, settled, results))
    return slots


@dataclass(frozen=True)
class _Stream:
    """The pieces, and how a pass reads them."""

    checkpoint: Checkpoint
    pieces: list[Piece]
    threads: int
    advance: Callable[[int], object]
    device: str

    @cached_property
    def coding(self) -> Coding:
        return Coding.of({self.checkpoint.tensors[key].dtype for piece in self.pieces for key in piece.keys})

    @property
    def chunk(self) -> int:
        """How many pairs the device computes with at once."""
        return CHUNK if self.device == "cpu" else GPU_CHUNK

    def run(self, make_pass: Callable[[], Callable[[Piece, Load], Any]], device: str, share: float = 1) -> list[Any]:
        """Results in the order of the pieces; each worker has a pass of its own, that reads a ``share`` of them.

        ``device`` is the stream's, or the CPU for a sample.
        """

        def worker() -> Callable[[Piece], Any]:
            arrays, over = make_arrays(device), make_pass()

            def load(piece: Piece, start: int, count: int) -> tuple[Any, Any]:
                x, y = (
                    arrays.load(name, self.checkpoint, key, piece.first + start, count, self.coding.wide)
                    for name, key in zip("xy", piece.keys, strict=True)
                )
                return x, y

            def do(piece: Piece) -> Any:
                with arrays.computing():
                    return over(piece, partial(load, piece))

            return do

        def advance(num_bytes: int) -> None:
            self.advance(int(share * num_bytes))

        on_cpu = device == "cpu"
        return pool.run(worker, self.pieces, self.threads, self._bytes, advance, in_processes=on_cpu)

    def _bytes(self, piece: Piece) -> int:
        return sum(num_bytes(self.checkpoint.tensors[key].dtype, piece.count) for key in piece.keys)


def _guessed(stream: _Stream, truncate: float) -> Brackets:
    """The brackets of both thresholds, from a sample where there are more pairs than can be set aside."""
    num_elements = sum(piece.count for piece in stream.pieces)
    k = int(truncate * num_elements)
    if num_elements <= select.FEW:
        return select.anywhere(k, stream.coding), select.anywhere(k, stream.coding)
    ratio = min(select.SAMPLE / num_elements, MOST_READ / STRIDE)
    every = max(SAMPLED, num_elements // NUM_SAMPLED)
    taken = stream.run(lambda: partial(_sample, stream.coding, ratio, every), "cpu", share=STRIDE * ratio)
    sample = (pair for piece in taken for pair in piece)
    x, y = (select.guess(k, num_elements, stream.coding, side) for side in zip(*sample, strict=True))
    return x, y


def _sample(coding: Coding, ratio: float, every: int, piece: Piece, load: Load) -> list[list[tuple[Codes, Codes]]]:
    """For x and for y the codes of about ``ratio`` of a piece's entries: a pair of stretches for so many entries."""
    found = []
    for first in range(0, piece.count, every):
        half = min(every, piece.count - first) // 2
        length = min(half, STRIDE * max(1, round(half * ratio)))
        starts = [first + side * half for side in (0, 1)]
        starts = [start + int((half - length) * (GOLDEN * (piece.first + start) % 1)) for start in starts]
        stretches = [[coding.codes(v[::STRIDE]) for v in load(start, length)] for start in starts]
        found.append(list(zip(*stretches, strict=True)))
    return found


@dataclass(slots=True)
class _Found:
    """What a pass finds in one piece, chunk by chunk.

    ``clear`` is TSSD over the pairs that the brackets settle; of the others, ``num_near`` in all, either all are in
    ``table``, or all in ``aside``, or, once these were too many, in ``histograms``, which a worker's pieces share.
    """

    table: Tally | None
    sums: Sums = field(default_factory=Sums)
    clear: Sign = field(default_factory=Sign)
    num_below: list[int] = field(default_factory=lambda: [0, 0])
    num_inside: list[int] = field(default_factory=lambda: [0, 0])
    num_near: int = 0
    aside: list[Pairs] = field(default_factory=list)
    histograms: Histograms | None = None


class _Aside:
    """How many pairs all workers have set aside, in memory that forked processes share.

    (That they do not lock it lets a few too many pass.)
    """

    def __init__(self) -> None:
        self._cell = memoryview(mmap.mmap(-1, 8)).cast("q")

    def add(self, count: int) -> int:
        """How many there are with these."""
        self._cell[0] += count
        return self._cell[0]


class _Pass:
    """Takes the sums of a piece; the pairs near a threshold are tabulated, or set aside, or counted if too many."""

    def __init__(self, stream: _Stream, brackets: Brackets, aside: _Aside, truncated_only: bool) -> None:
        self._chunk, self._size = make_chunk(stream.device, stream.coding), stream.chunk
        self._brackets, self._aside, self._truncated_only = brackets, aside, truncated_only
        self._histograms: Histograms | None = None

    def __call__(self, piece: Piece, load: Load) -> _Found:
        found = _Found(Tally.empty(self._brackets) if tally.fits(self._brackets) else None)
        for first in range(0, piece.count, self._size):
            x, y = load(first, min(self._size, piece.count - first))
            if self._truncated_only:
                split = self._chunk.truncated(x, y, self._brackets)
            else:
                pairwise, ssd, split = self._chunk(x, y, self._brackets)
                found.sums += Sums(pairwise, ssd)
            found.clear += split.clear
            for side in (0, 1):
                found.num_below[side] += split.num_below[side]
                found.num_inside[side] += split.num_inside[side]
            self._keep(split.near, found)
        return found

    def _keep(self, near: Pairs, found: _Found) -> None:
        count = len(near[0])
        found.num_near += count
        if found.table is not None:
            found.table.add(*near, self._brackets)
            return
        found.aside.append(near)
        if self._aside.add(count) > select.FEW:
            found.histograms = self._histograms = self._histograms or _no_counts()
            for pairs in found.aside:
                _count(self._brackets, pairs, found.histograms)
            found.aside.clear()


def make_chunk(device: str, coding: Coding) -> Any:
    """The arithmetic of a device."""
    if device == "cpu":
        return Chunk(CHUNK, coding.wide)
    from vlmerge_cli.metrics.torchchunk import TorchChunk

    return TorchChunk()


def _pass(stream: _Stream, brackets: Brackets, truncated_only: bool = False) -> list[_Found]:
    aside = _Aside()
    return stream.run(lambda: _Pass(stream, brackets, aside, truncated_only), stream.device)


def _totals(found: list[_Found], side: int) -> tuple[int, int]:
    """How many magnitudes of one side lie below and inside its bracket."""
    return sum(result.num_below[side] for result in found), sum(result.num_inside[side] for result in found)


def _settles(brackets: Brackets, found: list[_Found]) -> bool:
    """Whether both brackets are right and all pairs that they leave open were kept."""
    right = all(bracket.holds(*_totals(found, side)) for side, bracket in enumerate(brackets))
    return right and (tally.fits(brackets) or sum(result.num_near for result in found) <= select.FEW)


def _narrowed(brackets: Brackets, found: list[_Found]) -> Brackets:
    """The brackets after a pass. Pieces of one worker share their histograms, also when they come from a fork."""
    histograms = _no_counts()
    for result in found:
        for pairs in result.aside:
            _count(brackets, pairs, histograms)
    parts = list({id(one.histograms): one.histograms for one in found if one.histograms is not None}.values())
    parts += [result.table.histograms for result in found if result.table is not None]
    for part in parts:
        for histogram, counts in zip(histograms, part, strict=True):
            histogram[: len(counts)] += counts
    x, y = (bracket.narrowed(*_totals(found, side), histograms[side]) for side, bracket in enumerate(brackets))
    return x, y


def _no_counts() -> Histograms:
    return np.zeros(1 << select.DIGIT_BITS, np.int64), np.zeros(1 << select.DIGIT_BITS, np.int64)


def _count(brackets: Brackets, pairs: Pairs, histograms: Histograms) -> None:
    for bracket, values, histogram in zip(brackets, pairs, histograms, strict=True):
        if not bracket.is_exact:
            bracket.count(bracket.inside(values), histogram)


def _settled(brackets: Brackets, found: list[_Found]) -> Brackets:
    """The exact brackets, from the pairs that were kept."""
    if tally.fits(brackets):
        return _narrowed(brackets, found)
    x, y = (
        bracket.settled(_totals(found, side)[0], bracket.inside(values))
        for side, (bracket, values) in enumerate(zip(brackets, _set_aside(found), strict=True))
    )
    return x, y


def _truncated(brackets: Brackets, settled: Brackets, found: list[_Found]) -> Sign:
    """TSSD's sums over the pairs that the brackets left open, now that they are settled."""
    if tally.fits(brackets):
        tables = (result.table for result in found if result.table is not None)
        return sum(tables, Tally.empty(brackets)).truncated(brackets, settled)
    x, y = _set_aside(found)
    return truncated(x, y, *(bracket.threshold for bracket in settled))


def _set_aside(found: list[_Found]) -> Iterator[Vector]:
    """x, then y, of all pairs that were set aside."""
    for side in (0, 1):
        yield np.concatenate([pairs[side] for result in found for pairs in result.aside])
