"""Passes over two experts' tensors for the sums of all four distances.

A sample brackets TSSD's two thresholds. The first pass gives L2, cosine and SSD, and counts the magnitudes in the
brackets, which mostly leaves one each; the last pass gives TSSD. Only where a bracket turns out wrong or too wide
are there passes between, that count alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import add
from typing import Any

from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.backend import make_arrays
from vlmerge_cli.errors import MergeError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.metrics import threshold
from vlmerge_cli.metrics.all_sums import Sums, own_sums
from vlmerge_cli.metrics.numpy_sums import NumpySums
from vlmerge_cli.metrics.soft_sign import Sign
from vlmerge_cli.metrics.threshold import Bracket, Codes, Coding, Counts

#: Of x and of y.
Brackets = tuple[Bracket, Bracket]
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


def pieces_of(slot: Slot, keys: tuple[str, str], num_elements: int) -> list[Piece]:
    """All of one slot."""
    return [Piece(slot, keys, start, min(PIECE, num_elements - start)) for start in range(0, num_elements, PIECE)]


def num_bytes_read(checkpoint: NamedTensors, pieces: list[Piece]) -> int:
    """What a scan reads: all twice, and a sample. Where the sample misleads, or is coarse, it is once more."""
    stream = _Stream(checkpoint, pieces, 1, lambda _: None, "cpu")
    return int((2 + STRIDE * stream.sampled) * sum(map(stream.bytes_of, pieces)))


def scan(
    checkpoint: NamedTensors,
    pieces: list[Piece],
    truncate: float,
    threads: int,
    advance: Callable[[int], object],
    device: str = "cpu",
) -> dict[Slot, Sums]:
    """The sums of each slot; ``advance`` is told the bytes that every pass has read.

    Raises MergeError for NaN or infinity.
    """
    stream = _Stream(checkpoint, pieces, threads, advance, device)
    brackets = _guessed(stream, truncate)
    found = stream.run(partial(_CountingPass, stream, brackets, with_sums=True))
    slots: dict[Slot, Sums] = {}
    for piece, (sums, _) in zip(pieces, found, strict=True):
        if not sums.pairwise.is_finite:
            raise MergeError(f"NaN or infinity in {' or '.join(piece.keys)}", where=checkpoint.name)
        slots[piece.slot] = slots.get(piece.slot, Sums()) + sums
    brackets = _narrowed(brackets, found)
    while not all(bracket.is_exact for bracket in brackets):
        brackets = _narrowed(brackets, stream.run(partial(_CountingPass, stream, brackets)))
    for piece, tssd in zip(pieces, stream.run(partial(_LastPass, stream, brackets)), strict=True):
        slots[piece.slot] += Sums(tssd=tssd)
    return slots


@dataclass(frozen=True)
class _Stream:
    """The pieces, and how a pass reads them."""

    checkpoint: NamedTensors
    pieces: list[Piece]
    threads: int
    advance: Callable[[int], object]
    device: str

    @cached_property
    def coding(self) -> Coding:
        return Coding.of({self.checkpoint.tensors[key].dtype for piece in self.pieces for key in piece.keys})

    @cached_property
    def num_elements(self) -> int:
        return sum(piece.count for piece in self.pieces)

    @property
    def sampled(self) -> float:
        """The share of entries that the sample takes; 0 where none is worth it."""
        if self.num_elements <= threshold.SAMPLE:
            return 0.0
        return min(threshold.SAMPLE / self.num_elements, MOST_READ / STRIDE)

    def make_arithmetic(self) -> Any:
        """The arithmetic of the device."""
        if self.device == "cpu":
            return NumpySums(CHUNK, self.coding.wide)
        from vlmerge_cli.metrics.torch_sums import TorchSums

        return TorchSums()

    def chunks(self, piece: Piece, load: Load) -> Iterator[tuple[Any, Any]]:
        """Its pairs, as many at once as the device computes with."""
        size = CHUNK if self.device == "cpu" else GPU_CHUNK
        return (load(first, min(size, piece.count - first)) for first in range(0, piece.count, size))

    def run(self, make_pass: Callable[[], Callable[[Piece, Load], Any]], share: float = 1) -> list[Any]:
        """Results in the order of the pieces; each worker has a pass of its own, that reads a ``share`` of them."""
        device, threads = (self.device, self.threads) if share == 1 else ("cpu", 1)  # a sample is not worth more

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

        return pool.run(worker, self.pieces, threads, self.bytes_of, advance, in_processes=device == "cpu")

    def bytes_of(self, piece: Piece) -> int:
        return sum(num_bytes(self.checkpoint.tensors[key].dtype, piece.count) for key in piece.keys)


def _guessed(stream: _Stream, truncate: float) -> Brackets:
    """The brackets of both thresholds, from a sample where that is worth it."""
    num_elements, ratio = stream.num_elements, stream.sampled
    k = int(truncate * num_elements)
    if not ratio:
        return threshold.anywhere(k, stream.coding), threshold.anywhere(k, stream.coding)
    every = max(SAMPLED, num_elements // NUM_SAMPLED)
    taken = stream.run(lambda: partial(_sample, stream.coding, ratio, every), share=STRIDE * ratio)
    sample = (pair for piece in taken for pair in piece)
    x, y = (threshold.guess(k, num_elements, stream.coding, side) for side in zip(*sample, strict=True))
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


class _CountingPass:
    """Counts where magnitudes lie, for all of a worker's pieces together; the first also takes a piece's sums."""

    def __init__(self, stream: _Stream, brackets: Brackets, with_sums: bool = False) -> None:
        self._stream, self._brackets, self._with_sums = stream, brackets, with_sums
        self._arithmetic, self._counts = stream.make_arithmetic(), (Counts(), Counts())

    def __call__(self, piece: Piece, load: Load) -> tuple[Sums, tuple[Counts, Counts]]:
        sums = Sums()
        for pair in self._stream.chunks(piece, load):
            if self._with_sums:
                pairwise, ssd = self._arithmetic.sums(*pair)
                sums += Sums(pairwise, ssd, own=own_sums(*pair))
            for bracket, values, counts in zip(self._brackets, pair, self._counts, strict=True):
                counts.add(bracket, *self._arithmetic.count(values, bracket))
        return sums, self._counts


class _LastPass:
    """TSSD's sums of a piece, once both thresholds are known."""

    def __init__(self, stream: _Stream, brackets: Brackets) -> None:
        self._stream, self._arithmetic = stream, stream.make_arithmetic()
        self._limits = [bracket.threshold for bracket in brackets]

    def __call__(self, piece: Piece, load: Load) -> Sign:
        chunks = self._stream.chunks(piece, load)
        return sum((self._arithmetic.truncated(*pair, *self._limits) for pair in chunks), Sign())


def _narrowed(brackets: Brackets, found: list[tuple[Sums, tuple[Counts, Counts]]]) -> Brackets:
    """The brackets after a pass; the counts that a worker's pieces share are added once."""
    workers = list({id(counts): counts for _, counts in found}.values()) or [(Counts(), Counts())]
    x, y = (bracket.narrowed(reduce(add, (its[side] for its in workers))) for side, bracket in enumerate(brackets))
    return x, y
