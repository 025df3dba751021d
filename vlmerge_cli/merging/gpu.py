"""Merging on GPUs: batches of pieces go there and back through pinned memory, several on their way at once.

Each thread has two lanes of buffers. While the batch in one lane is copied over, merged and copied back, each on a
CUDA stream of its own, the thread writes what came back in the other and reads the next batch into it. Small tensors
share a batch, and so one copy each way; what is only copied stays on the CPU. All threads take batches of about
equal bytes from one queue, whichever GPU they feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.named_tensors import Sink
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.arrays import NumpyArray, NumpyArrays, is_finite
from vlmerge_cli.engine.torcharrays import Extent, Streams, TorchArrays, load_linalg
from vlmerge_cli.errors import MergeError
from vlmerge_cli.merging.job import Job, Piece, input_bytes, is_raw, pieces_of
from vlmerge_cli.merging.plan import Copy, Merge, sources_of
from vlmerge_cli.merging.worker import Worker
from vlmerge_cli.methods.method import Group

#: Inputs of a batch: enough that a copy runs at full speed, little enough that pinning memory takes no time.
BATCH_BYTES = 16 << 20


def execute(job: Job, output: Sink, devices: Sequence[str], advance: Callable[[int], object]) -> None:
    """Fill ``output`` through these torch devices; ``cpu`` does the same without a GPU. Raises MergeError."""
    if job.plan.solves:
        load_linalg(devices[0])
    turns = cycle(devices)
    pool.run(
        lambda: BatchWorker(job, output, next(turns)),
        list(batches_of(job, pieces_of(job, TorchArrays.chunk_elements))),
        max(job.threads, len(devices)),
        lambda batch: sum(input_bytes(job, piece) for piece in batch),
        advance,
        finish=BatchWorker.finish,
    )


def batches_of(job: Job, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in their order, cut so that a batch has BATCH_BYTES of inputs, or one piece that is larger."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        more = input_bytes(job, piece)
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += more
    if batch:
        yield batch


@dataclass(frozen=True)
class Result:
    """Where a result belongs, and its bytes: on the device, then in a lane's pinned memory."""

    step: Merge | Copy
    piece: Piece
    dtype: str
    data: Any


class BatchWorker(Worker):
    """One thread's share on one device; called with a batch, it writes the one before."""

    def __init__(self, job: Job, output: Sink, device: str) -> None:
        streams = Streams(device)
        self._lanes = [TorchArrays(device, streams), TorchArrays(device, streams)]
        super().__init__(job, output, self._lanes[0])
        self._results: list[Result] = []
        self._on_their_way: tuple[list[Result], Callable[[], NumpyArray]] | None = None

    def __call__(self, batch: Sequence[Piece]) -> None:
        lane = self.arrays = self._lanes[0]
        self._lanes.reverse()
        try:
            lane.send([extent for piece in batch for extent in extents_of(self.job, piece)])
            with lane.computing():
                for piece in batch:
                    if not is_raw(self.job, piece.step):
                        self.do(piece)
            results, self._results = self._results, []
            arriving = lane.fetch([result.data for result in results])
        except torch.OutOfMemoryError:
            fix = "use fewer --threads, or --device cpu"
            raise MergeError("the GPU has too little memory", where=self.job.checkpoint.name, fix=fix) from None
        for piece in batch:
            if is_raw(self.job, piece.step):
                self.do(piece)
        self.finish()
        self._on_their_way = results, arriving

    def finish(self) -> None:
        """Write what is still on its way."""
        if self._on_their_way is None:
            return
        results, arriving = self._on_their_way
        self._on_their_way = None
        data, first = arriving(), 0
        for result in results:
            last = first + num_bytes(result.dtype, result.piece.count)
            self._write(result, data[first:last])
            first = last

    def _write(self, result: Result, data: NumpyArray) -> None:
        if self.job.allow_non_finite or is_finite(data, result.dtype):
            self.output.write(result.step.target, num_bytes(result.dtype, result.piece.first), data)
        else:  # once more on the CPU, which says what is wrong, or that nothing is
            Worker(self.job, self.output, NumpyArrays()).do(result.piece)

    def _store(self, step: Merge | Copy, piece: Piece, array: Tensor, group: Group | None = None) -> None:
        dtype = self.job.plan.specs[step.target].dtype
        self._results.append(Result(step, piece, dtype, TorchArrays.rounded(array, dtype)))


def extents_of(job: Job, piece: Piece) -> Iterator[Extent]:
    """All that a piece needs on the device."""
    step = piece.step
    if is_raw(job, step):
        return
    for key in sources_of(step):
        yield Extent(job.checkpoint, key, piece.first, piece.count)
    if isinstance(step, Merge):
        if step.base is not None:
            assert job.base is not None
            yield Extent(job.base, step.base, piece.first, piece.count)
        for key in dict.fromkeys(step.grams.values()):
            assert job.grams is not None
            yield Extent(job.grams, key, 0, job.grams.tensors[key].num_elements)
