"""Which sample stands in which place of which step: a function of the seed and the step, and of nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.data.draws import generator
from vlmerge_cli.errors import UsageError

PATTERN = 1 << 16  # samples after which the shares of a mixture are met exactly
WINDOW = 100_000  # samples among which tar shards are shuffled, so that a disk reads in stretches


class Place(NamedTuple):
    """A sample to be read: ``row`` is its place in the run (see Batch), ``number`` that in its source."""

    row: int
    source: int
    number: int
    valid: bool = True


def shuffled(
    num: int, seed: int, *where: int | str, starts: NDArray[np.int64] | None = None, window: int = WINDOW
) -> NDArray[np.int64]:
    """A random order of ``num`` samples. With ``starts`` (of shards, and the end) and more samples than
    ``window``, the shards are put in random order and then the samples within each ``window``.
    """
    rng = generator(seed, "order", *where)
    if starts is None or num <= window:
        return rng.permutation(num)
    stretches = [np.arange(starts[shard], starts[shard + 1]) for shard in rng.permutation(len(starts) - 1)]
    order = np.concatenate(stretches)
    for start in range(0, num, window):
        rng.shuffle(order[start : start + window])
    return order


class Stream:
    """An endless run through sources mixed by weight; batch ``step`` can be had without those before it.

    Place p of the run belongs to a source by a pattern of 65,536 places, drawn anew each time, in which every
    source has its share. The k-th place of a source with N samples is its sample order[k // N][k % N], so
    each source goes through all its samples before it repeats one.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, seed: int,
        starts: Sequence[NDArray[np.int64] | None] | None = None,
    ) -> None:  # fmt: skip
        assert len(sizes) == len(weights), f"{sizes} samples with weights {weights}"
        assert min(sizes) > 0, f"{sizes} samples"
        self.sizes, self.batch_size, self.seed = list(sizes), batch_size, seed
        self.starts = list(starts) if starts is not None else [None] * len(sizes)
        share = np.array(weights, np.float64) / sum(weights)
        if (share * PATTERN < 0.5).any():
            least = int(np.argmin(share))
            raise UsageError(f"source {least + 1} has a share of {share[least]:.2g}", fix=f"use at least 1/{PATTERN}")
        ends = np.rint(np.cumsum(share) * PATTERN).astype(np.int64)
        self.counts = np.diff(ends, prepend=0)
        self._patterns: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def batch(self, step: int) -> list[Place]:
        """The global batch of ``step``, in order."""
        rows = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        sources, turns = self._turns(rows)
        numbers = np.empty_like(rows)
        for source, size in enumerate(self.sizes):
            for epoch in np.unique(turns[sources == source] // size).tolist():
                mine = (sources == source) & (turns // size == epoch)
                numbers[mine] = self._order(source, epoch)[turns[mine] % size]
        return list(map(Place, rows.tolist(), sources.tolist(), numbers.tolist()))

    def _turns(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each row its source, and how many rows of that source come before it in the run."""
        if len(self.sizes) == 1:
            return np.zeros_like(rows), rows
        sources, turns = np.empty_like(rows), np.empty_like(rows)
        periods, places = np.divmod(rows, PATTERN)
        for period in np.unique(periods).tolist():
            here = periods == period
            source_of, rank_of = self._pattern(period)
            sources[here] = source_of[places[here]]
            turns[here] = period * self.counts[sources[here]] + rank_of[places[here]]
        return sources, turns

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        if (source, epoch) not in self._orders:
            for old in [key for key in self._orders if key[0] == source and key[1] != epoch - 1]:
                del self._orders[old]
            drawn = shuffled(self.sizes[source], self.seed, source, epoch, starts=self.starts[source])
            self._orders[source, epoch] = drawn
        return self._orders[source, epoch]

    def _pattern(self, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each place its source, and how many places of that source come before it in the pattern."""
        if period not in self._patterns:
            self._patterns = {old: made for old, made in self._patterns.items() if old == period - 1}
            source_of = np.repeat(np.arange(len(self.sizes)), self.counts)
            generator(self.seed, "mixture", period).shuffle(source_of)
            rank_of = np.empty_like(source_of)
            for source in range(len(self.sizes)):
                mine = source_of == source
                rank_of[mine] = np.arange(int(mine.sum()))
            self._patterns[period] = (source_of, rank_of)
        return self._patterns[period]


def slice_of(places: list[Place], rank: int, world_size: int) -> list[Place]:
    """The part of a global batch that a rank takes: contiguous, equal for all."""
    if len(places) % world_size:
        raise UsageError(
            f"a batch of {len(places)} cannot be shared by {world_size} processes",
            fix=f"use a multiple, e.g. {world_size * max(1, round(len(places) / world_size))}",
        )
    size = len(places) // world_size
    return places[rank * size : (rank + 1) * size]


def chunks(sizes: Sequence[int], chunk_size: int, rank: int, world_size: int) -> Iterator[list[Place]]:
    """Every sample of every source once, in order, in chunks of one size that do not depend on the ranks.

    Chunks are dealt out in turn and every rank has the same number of them; what fills the last ones up
    repeats the last sample and is not valid.
    """
    sources = np.repeat(np.arange(len(sizes)), sizes)
    numbers = np.concatenate([np.arange(size) for size in sizes])
    total = len(numbers)
    num_chunks = -(-total // chunk_size)
    for chunk in range(rank, -(-num_chunks // world_size) * world_size, world_size):
        rows = range(chunk * chunk_size, (chunk + 1) * chunk_size)
        at = [min(row, total - 1) for row in rows]
        yield [Place(n, int(sources[n]), int(numbers[n]), row < total) for row, n in zip(rows, at, strict=True)]
