"""Carry out a plan: read, merge and write in file order, with several threads and bounded memory.

Elementwise slots go through in chunks, the others whole. What a thread computes depends on its chunk alone, so
the bytes of the output do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.checkpoint.writer import Output
from vlmerge_cli.merging import parallel
from vlmerge_cli.merging.plan import Copy, Drop, Merge, Plan, Same, Step, sources_of

#: Elements of a piece on the CPU: few enough for the caches, so many that calls from Python do not count.
CHUNK_ELEMENTS = 1 << 18
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
    """Elements ``first`` to ``first + count`` of a step; one that moves raw bytes counts bytes."""

    step: Step
    first: int
    count: int


def execute(job: Job, output: Output, advance: Callable[[int], object] = lambda _: None) -> None:
    """Fill ``output``; ``advance`` is told the input bytes done. Raises MergeError for what cannot be merged."""
    if job.device == "cpu":
        _execute_on_cpu(job, output, advance)
    else:
        from vlmerge_cli.merging import gpu

        gpu.execute(job, output, devices.each(job.device), advance)


def _execute_on_cpu(job: Job, output: Output, advance: Callable[[int], object]) -> None:
    """What is only copied comes first: other threads begin with it while this one loads numpy."""
    with parallel.one_blas_thread() if job.plan.solves else nullcontext():
        parallel.run(
            lambda: _share(job, output),
            sorted(pieces_of(job, CHUNK_ELEMENTS), key=lambda piece: not _is_copy(job, piece.step)),
            job.threads,
            lambda piece: input_bytes(job, piece),
            advance,
            meanwhile=devices.load_numpy,
        )


def _share(job: Job, output: Output) -> Callable[[Piece], None]:
    """One thread's; it needs numpy from its first merge on."""
    workers: list[Callable[[Piece], None]] = []

    def do(piece: Piece) -> None:
        if _is_copy(job, piece.step):
            return copy_piece(job, output, piece)
        if not workers:
            from vlmerge_cli.merging.arrays import NumpyArrays
            from vlmerge_cli.merging.worker import Worker

            workers.append(Worker(job, output, NumpyArrays()).do)
        return workers[0](piece)

    return do


def copy_piece(job: Job, output: Output, piece: Piece) -> None:
    """Bytes from file to file, inside the kernel or else through memory."""
    assert isinstance(piece.step, Copy)
    fd, start = job.checkpoint.place(piece.step.source)
    done = output.copy(piece.step.target, piece.first, (fd, start + piece.first), piece.count)
    if done < piece.count:
        data = bytearray(piece.count - done)
        job.checkpoint.read_into(piece.step.source, data, piece.first + done)
        output.write(piece.step.target, piece.first + done, data)


def settled(job: Job) -> Job:
    """The same job with a method that has seen the slots it wants to see (``--alpha auto``)."""
    method, merges = job.plan.method, job.plan.merges
    steps = [step for step in merges if method.examines(step.slot)]
    found: list[Any] = []
    if steps:
        from vlmerge_cli.merging.arrays import make_arrays
        from vlmerge_cli.merging.worker import Worker

        pieces = [Piece(step, 0, job.plan.specs[step.target].num_elements) for step in steps]
        with parallel.one_blas_thread() if job.device == "cpu" else nullcontext():
            found = parallel.run(
                lambda: Worker(job, None, make_arrays(job.device)).examine,
                pieces,
                job.threads,
                lambda piece: input_bytes(job, piece),
                lambda _: None,
            )
    seen = {step.slot: one for step, one in zip(steps, found, strict=True)}
    return replace(job, plan=replace(job.plan, method=method.settle(seen, [step.slot for step in merges])))


def input_bytes(job: Job, piece: Piece) -> int:
    tensor = job.checkpoint.tensors[sources_of(piece.step)[0]]
    count = len(sources_of(piece.step))
    return count * (piece.count if is_raw(job, piece.step) else num_bytes(tensor.dtype, piece.count))


def is_raw(job: Job, step: Step) -> bool:
    """Whether a step moves bytes as they are; its pieces then count bytes, not elements."""
    return isinstance(step, Same) or _is_copy(job, step)


def _is_copy(job: Job, step: Step) -> bool:
    return isinstance(step, Copy) and job.checkpoint.tensors[step.source].dtype == job.plan.specs[step.target].dtype


def pieces_of(job: Job, chunk_elements: int) -> Iterator[Piece]:
    for step in job.plan.steps:
        if isinstance(step, Drop):
            continue
        tensor = job.checkpoint.tensors[sources_of(step)[0]]
        size, chunk = tensor.num_elements, chunk_elements
        if isinstance(step, Merge) and not job.plan.method.elementwise(step.slot):
            chunk = max(size, 1)
        elif is_raw(job, step):
            size, chunk = tensor.num_bytes, COPY_BYTES
        for first in range(0, size, chunk):
            yield Piece(step, first, min(chunk, size - first))
