"""Many merges of one checkpoint in one pass: each group is read once and merged in every way asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.checkpoint.writer import Output, Target
from vlmerge_cli.engine import pool
from vlmerge_cli.engine.backend import make_arrays
from vlmerge_cli.merging import merge
from vlmerge_cli.merging.execute import settled
from vlmerge_cli.merging.job import Job, Piece, pieces_of
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.merging.worker import Worker
from vlmerge_cli.methods.method import Method


def sweep(
    inputs: merge.Inputs,
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
    paths = [folder / str(number) for number in range(len(methods))]
    with ExitStack() as stack:
        ready = [stack.enter_context(merge.prepared(inputs, method, request)) for method in methods]
        solves = any(one.plan.solves for one in ready)
        device = devices.resolve(settings.device, prefer_gpu=solves)
        threads = max(1, settings.threads)
        jobs = [
            settled(Job(one.plan, one.checkpoint, one.base, one.grams, device, threads, settings.allow_non_finite))
            for one in ready
        ]
        pieces = [list(pieces_of(job, make_arrays(device).chunk_elements)) for job in jobs]
        assert len({tuple((p.first, p.count) for p in own) for own in pieces}) == 1, "one method, one way to cut"
        outputs = [
            stack.enter_context(merge.output_of(one, Target(path, True, False), settings, shared=True))
            for one, path in zip(ready, paths, strict=True)
        ]
        if solves and device != "cpu":
            from vlmerge_cli.engine.torcharrays import load_linalg

            load_linalg(device)
        with pool.one_blas_thread() if solves and device == "cpu" else nullcontext():
            pool.run(
                lambda: _Fan(jobs, outputs).do,
                list(zip(*pieces, strict=True)),
                threads,
                lambda every: every[0].count,
                lambda _: None,
            )
    return paths


class _Fan:
    """One thread's share: a worker for each merge, all of which read through one memory of the current piece."""

    def __init__(self, jobs: Sequence[Job], outputs: Sequence[Output]) -> None:
        first = jobs[0]
        inputs = [None if one is None else _Remembered(one) for one in (first.checkpoint, first.base, first.grams)]
        self._inputs = [one for one in inputs if one is not None]
        checkpoint, base, grams = inputs
        own: list[Any] = [replace(job, checkpoint=checkpoint, base=base, grams=grams) for job in jobs]  # type: ignore[arg-type]
        self._do: list[Callable[[Piece], None]] = [
            Worker(job, output, make_arrays(job.device)).do for job, output in zip(own, outputs, strict=True)
        ]

    def do(self, pieces: Sequence[Piece]) -> None:
        """The same piece of every merge."""
        for one in self._inputs:
            one.forget()
        for do, piece in zip(self._do, pieces, strict=True):
            do(piece)


class _Remembered:
    """A checkpoint that gives what it has read once again without reading."""

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._held: dict[tuple[str, int, int], bytes] = {}

    def read_into(self, key: str, buffer: Any, offset: int = 0) -> None:
        view = memoryview(buffer).cast("B")
        at = (key, offset, len(view))
        if at in self._held:
            view[:] = self._held[at]
        else:
            self._source.read_into(key, buffer, offset)
            self._held[at] = bytes(view)

    def forget(self) -> None:
        self._held.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
