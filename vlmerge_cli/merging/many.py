"""Many merges of one checkpoint in one pass: each group is read once and merged in every way asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.named_tensors import Remembered, Sink
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.backend import make_arrays
from vlmerge_cli.merging import merge, opening
from vlmerge_cli.merging.execute import settled
from vlmerge_cli.merging.job import Job, Piece, pieces_of
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.merging.recipe import output_of
from vlmerge_cli.merging.worker import Worker
from vlmerge_cli.methods.method import Method


def sweep(
    inputs: opening.Inputs,
    methods: Sequence[Method],
    request: Request,
    folder: Path,
    settings: merge.Settings,
) -> list[Path]:
    """``folder``/0, /1, ...: the checkpoint merged by each method, each whole or absent, with the bytes of ``merge``.

    Memory is that of one merge and, for each thread, the bytes of one piece of each input. Raises what planning and
    carrying out a merge raise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with opening.several(inputs, methods, request) as ready:
        return run(opening.completed(ready, settings.device), folder, settings)


def run(ready: Sequence[opening.Prepared], folder: Path, settings: merge.Settings) -> list[Path]:
    """The same for merges that are prepared, all of one method and the same inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / str(number) for number in range(len(ready))]
    solves = any(one.plan.solves for one in ready)
    device = devices.resolve(settings.device, prefer_gpu=solves)
    jobs = [settled(merge.job_of(one, device, settings)) for one in ready]
    pieces = [list(pieces_of(job, make_arrays(device).chunk_elements)) for job in jobs]
    assert len({tuple((p.first, p.count) for p in own) for own in pieces}) == 1, "one method, one way to cut"
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(
                output_of(replace(one, plan=job.plan), Target(path, True, False), settings.full_digest, shared=True)
            )
            for one, job, path in zip(ready, jobs, paths, strict=True)
        ]
        if solves and device != "cpu":
            from vlmerge_cli.engine.torcharrays import load_linalg

            load_linalg(device)
        with pool.one_blas_thread() if solves and device == "cpu" else nullcontext():
            pool.run(
                lambda: _Fan(jobs, outputs).do,
                list(zip(*pieces, strict=True)),
                jobs[0].threads,
                lambda every: every[0].count,
                lambda _: None,
            )
        ready[0].check_unchanged()
    return paths


class _Fan:
    """One thread's share: a worker for each merge, all of which read through one memory of the current piece."""

    def __init__(self, jobs: Sequence[Job], outputs: Sequence[Sink]) -> None:
        first = jobs[0]
        checkpoint = Remembered(first.checkpoint)
        base, grams = (None if one is None else Remembered(one) for one in (first.base, first.grams))
        self._inputs = [one for one in (checkpoint, base, grams) if one is not None]
        own = [replace(job, checkpoint=checkpoint, base=base, grams=grams) for job in jobs]
        self._do: list[Callable[[Piece], None]] = [
            Worker(job, output, make_arrays(job.device)).do for job, output in zip(own, outputs, strict=True)
        ]

    def do(self, pieces: Sequence[Piece]) -> None:
        """The same piece of every merge."""
        for one in self._inputs:
            one.forget()
        for do, piece in zip(self._do, pieces, strict=True):
            do(piece)
