"""Carry out a plan: read, merge and write in file order, with several threads and bounded memory.

Elementwise slots go through in chunks, the others whole. What a thread computes depends on its chunk alone, so
the bytes of the output do not depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.dtypes import DTYPES, num_bytes
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.checkpoint.writer import Output
from vlmerge_cli.errors import MergeError
from vlmerge_cli.merging.arrays import Arrays, make_arrays
from vlmerge_cli.merging.plan import Copy, Drop, Merge, Plan, Same, Step, sources_of
from vlmerge_cli.methods.method import Group

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """Inputs of one execution; ``base`` and ``grams`` are open where the plan refers to them."""

    plan: Plan
    checkpoint: Checkpoint
    base: Checkpoint | None = None
    grams: Checkpoint | None = None
    device: str = "cpu"
    threads: int = 2
    allow_non_finite: bool = False


@dataclass(frozen=True)
class Piece:
    """Elements ``first`` to ``first + count`` of a step; a copy of raw bytes counts bytes."""

    step: Step
    first: int
    count: int


def execute(job: Job, output: Output, advance: Callable[[int], object] = lambda _: None) -> None:
    """Fill ``output``; ``advance`` is told the input bytes done. Raises MergeError for what cannot be merged."""
    arrays = make_arrays(job.device)
    pieces = list(_pieces(job, arrays.chunk_elements))
    whole = any(not job.plan.method.elementwise(step.slot) for step in job.plan.merges)
    with _one_blas_thread() if whole and job.device == "cpu" else nullcontext():
        _steady_malloc()
        workers = [_Worker(job, output, arrays if n == 0 else make_arrays(job.device)) for n in range(job.threads)]
        _run(workers, pieces, advance)


def _run(workers: list[_Worker], pieces: list[Piece], advance: Callable[[int], object]) -> None:
    """Let the workers take the pieces in order; the first error stops them all and is raised here."""
    queue, lock, errors = iter(pieces), threading.Lock(), []
    stop = threading.Event()

    def work(worker: _Worker) -> None:
        try:
            while not stop.is_set():
                with lock:
                    piece = next(queue, None)
                if piece is None:
                    return
                done = worker.do(piece)
                with lock:
                    advance(done)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers[1:]]
    for thread in threads:
        thread.start()
    try:
        work(workers[0])
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        raise
    if errors:
        raise errors[0]


class _Worker:
    """One thread's share; its arrays reuse their buffers from piece to piece."""

    def __init__(self, job: Job, output: Output, arrays: Arrays) -> None:
        self.job, self.output, self.arrays = job, output, arrays
        self._buffer = np.empty(COPY_BYTES, np.uint8)

    def do(self, piece: Piece) -> int:
        """Input bytes that were used."""
        step = piece.step
        if isinstance(step, Merge):
            self._merge(step, piece)
            return len(step.sources) * num_bytes(self._dtype(step), piece.count)
        if isinstance(step, Same):
            return self._same(step)
        assert isinstance(step, Copy)
        if self._dtype(step) == self.job.plan.specs[step.target].dtype:
            buffer = self._buffer[: piece.count]
            self.job.checkpoint.read_into(step.source, buffer, piece.first)
            self.output.write(step.target, piece.first, buffer)
            return piece.count
        wide = self.job.checkpoint.tensors[step.source].dtype
        array = self._load("copy", step.source, piece, "float64" if wide == "F64" else "float32")
        self._store(step, piece, array)
        return num_bytes(wide, piece.count)

    def _merge(self, step: Merge, piece: Piece) -> None:
        job, spec = self.job, self.job.plan.specs[step.target]
        wide = "float64" if "F64" in (self._dtype(step), spec.dtype) else "float32"
        whole = not job.plan.method.elementwise(step.slot)
        shape = spec.shape if whole else (piece.count,)
        experts = {e: self._load(e, key, piece, wide).reshape(shape) for e, key in step.sources.items()}
        base = None
        if step.base is not None:
            assert job.base is not None
            base = self.arrays.load("base", job.base, step.base, piece.first, piece.count, wide).reshape(shape)
        group = Group(step.slot, experts, base, _Grams(job.grams, step.grams, self.arrays))
        with np.errstate(over="ignore", invalid="ignore"):
            merged = job.plan.method(group)
        if not job.allow_non_finite and not self.arrays.finite(merged):
            raise self._non_finite(step, experts)
        self._store(step, piece, merged)

    def _same(self, step: Same) -> int:
        first, *others = (self.job.checkpoint.read(key) for key in step.sources.values())
        for expert, data in zip(list(step.sources)[1:], others, strict=True):
            if data != first:
                at = f"layer {step.slot.layer} {step.slot.name}"
                what = f"{at}: {self._dtype(step)} tensors differ between {next(iter(step.sources))} and {expert}"
                fix = f"whole numbers are never averaged; leave it out with --keep '{step.slot.label}'"
                raise MergeError(what, where=self.job.checkpoint.name, fix=fix)
        self.output.write(step.target, 0, first)
        return len(first) * len(step.sources)

    def _load(self, name: str, key: str, piece: Piece, wide: str) -> Any:
        return self.arrays.load(name, self.job.checkpoint, key, piece.first, piece.count, wide)

    def _store(self, step: Merge | Copy, piece: Piece, array: Any) -> None:
        dtype = self.job.plan.specs[step.target].dtype
        data = self.arrays.store(array, dtype)
        if dtype != self._dtype(step) and DTYPES[dtype].bits == 16 and not self.job.allow_non_finite:
            self._check_range(step, dtype, data, array)
        self.output.write(step.target, num_bytes(dtype, piece.first), data)

    def _check_range(self, step: Merge | Copy, dtype: str, data: Any, array: Any) -> None:
        """A value that was finite must still be so in the narrower type."""
        exponent = 0x7C00 if dtype == "F16" else 0x7F80
        lost = ((data.view(np.uint16) & exponent) == exponent).any()
        if lost and self.arrays.finite(array):
            name = DTYPES[dtype].numpy
            raise MergeError(f"{step.target} has values that {name} cannot hold", fix="choose another --dtype")

    def _non_finite(self, step: Merge, experts: Mapping[str, Any]) -> MergeError:
        bad = [key for expert, key in step.sources.items() if not self.arrays.finite(experts[expert])]
        what = f"NaN or infinity in {', '.join(bad)}" if bad else f"merging {step.target} overflows"
        fix = f"merge all the same with --allow-non-finite, or leave it out with --keep '{step.slot.label}'"
        return MergeError(what, where=self.job.checkpoint.name, fix=fix)

    def _dtype(self, step: Step) -> str:
        return self.job.checkpoint.tensors[sources_of(step)[0]].dtype


class _Grams(Mapping[str, Any]):
    """Grams of one slot, each read when it is asked for, so that one at a time is in memory."""

    def __init__(self, source: Checkpoint | None, keys: Mapping[str, str], arrays: Arrays) -> None:
        self._source, self._keys, self._arrays = source, keys, arrays

    def __getitem__(self, expert: str) -> Any:
        assert self._source is not None
        key = self._keys[expert]
        tensor = self._source.tensors[key]
        flat = self._arrays.load("gram", self._source, key, 0, tensor.num_elements, "float64")
        return flat.reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _pieces(job: Job, chunk_elements: int) -> Iterator[Piece]:
    for step in job.plan.steps:
        if isinstance(step, Drop):
            continue
        tensor = job.checkpoint.tensors[sources_of(step)[0]]
        size, chunk = tensor.num_elements, chunk_elements
        if isinstance(step, Same) or (isinstance(step, Merge) and not job.plan.method.elementwise(step.slot)):
            chunk = max(size, 1)
        elif isinstance(step, Copy) and tensor.dtype == job.plan.specs[step.target].dtype:
            size, chunk = tensor.num_bytes, COPY_BYTES
        for first in range(0, size, chunk):
            yield Piece(step, first, min(chunk, size - first))


def _one_blas_thread() -> Any:
    """Slots go side by side, each on one BLAS thread: faster, and the same bytes on every machine."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


def _steady_malloc() -> None:
    """Freeing one large block teaches glibc to keep such blocks instead of giving pages back each time."""
    np.empty(16 << 20, np.uint8)
