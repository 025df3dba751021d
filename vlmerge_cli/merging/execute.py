"""Carry out a plan: read, merge and write in file order, with several threads and bounded memory.

Elementwise slots go through in chunks, the others whole. What a thread computes depends on its chunk alone, so
the bytes of the output do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.named_tensors import Sink
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.chunks import CHUNK_ELEMENTS
from vlmerge_cli.merging.job import Job, Piece, copy_piece, input_bytes, is_copy, pieces_of


def execute(job: Job, output: Sink, advance: Callable[[int], object] = lambda _: None) -> None:
    """Fill ``output``; ``advance`` is told the input bytes done. Raises MergeError for what cannot be merged."""
    if job.device == "cpu":
        _execute_on_cpu(job, output, advance)
    else:
        from vlmerge_cli.merging import gpu

        gpu.execute(job, output, devices.each(job.device), advance)


def _execute_on_cpu(job: Job, output: Sink, advance: Callable[[int], object]) -> None:
    """What is only copied comes first: other threads begin with it while this one loads numpy."""
    with pool.one_blas_thread() if job.plan.solves else nullcontext():
        pool.run(
            lambda: _share(job, output),
            sorted(pieces_of(job, CHUNK_ELEMENTS), key=lambda piece: not is_copy(job, piece.step)),
            job.threads,
            lambda piece: input_bytes(job, piece),
            advance,
            meanwhile=devices.load_numpy,
        )


def _share(job: Job, output: Sink) -> Callable[[Piece], None]:
    """One thread's; it needs numpy from its first merge on."""
    workers: list[Callable[[Piece], None]] = []

    def do(piece: Piece) -> None:
        if is_copy(job, piece.step):
            return copy_piece(job, output, piece)
        if not workers:
            from vlmerge_cli.engine.arrays import NumpyArrays
            from vlmerge_cli.merging.worker import Worker

            workers.append(Worker(job, output, NumpyArrays()).do)
        return workers[0](piece)

    return do


def settled(job: Job) -> Job:
    """The same job with a method that has seen the slots it wants to see (``--alpha auto``)."""
    method, merges = job.plan.method, job.plan.merges
    steps = [step for step in merges if method.examines(step.slot)]
    found: list[Any] = []
    if steps:
        from vlmerge_cli.engine.backend import make_arrays
        from vlmerge_cli.merging.worker import Worker

        pieces = [Piece(step, 0, job.plan.specs[step.target].num_elements) for step in steps]
        with pool.one_blas_thread() if job.device == "cpu" else nullcontext():
            found = pool.run(
                lambda: Worker(job, None, make_arrays(job.device)).examine,
                pieces,
                job.threads,
                lambda piece: input_bytes(job, piece),
                lambda _: None,
            )
    seen = {step.slot: one for step, one in zip(steps, found, strict=True)}
    return replace(job, plan=replace(job.plan, method=method.settle(seen, [step.slot for step in merges])))
