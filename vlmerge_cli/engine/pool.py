"""Pieces of work shared out over ranks, and taken in order by a few threads of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import accumulate
from typing import Any, TypeVar

from vlmerge_cli import ranks
from vlmerge_cli.errors import VlmergeError

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def run(
    make_worker: Callable[[], Callable[[Piece], Result]],
    pieces: Sequence[Piece],
    threads: int,
    cost: Callable[[Piece], int],
    advance: Callable[[int], object],
    finish: Callable[[Any], object] = lambda _: None,
    meanwhile: Callable[[], object] = lambda: None,
    in_processes: bool = False,
) -> list[Result]:
    """Results in the order of the pieces, on every rank; each thread has a worker of its own.

    Ranks take stretches of equal ``cost`` (bytes); ``advance`` is told what was done here; ``finish`` is called with
    each worker when no piece is left; ``meanwhile`` is what the calling thread does before its share, when the others
    have begun theirs. The first error stops all threads and is raised on every rank, as is an interrupt here.

    ``in_processes``: forked processes instead of threads where that can be, for work whose results are all it does;
    ``finish`` and ``meanwhile`` are for threads alone.
    """
    if ranks.world_size() == 1:
        if in_processes and min(threads, len(pieces)) > 1:
            from vlmerge_cli.engine import forks

            if forks.can_fork():
                return forks.run(make_worker, pieces, min(threads, len(pieces)), cost, advance)
        return _run(make_worker, pieces, threads, cost, advance, finish, meanwhile)
    error: VlmergeError | None = None
    own: list[Result] = []
    try:
        own_pieces = stretch(pieces, cost, ranks.rank(), ranks.world_size())
        own = _run(make_worker, own_pieces, threads, cost, advance, finish, meanwhile)
    except VlmergeError as raised:
        error = raised
    found = ranks.gather_objects((error, own))
    for failed, _ in found:
        if failed is not None:
            failed.everywhere = True
            raise failed
    return [result for _, results in found for result in results]


def stretch(pieces: Sequence[Piece], cost: Callable[[Piece], int], rank: int, num_ranks: int) -> Sequence[Piece]:
    """The part of the pieces whose middle lies in this rank's share of the total cost: every piece is in one."""
    ends = list(accumulate(map(cost, pieces)))
    total = max(ends[-1], 1) if ends else 1
    owner = [
        min((2 * end - cost(piece)) * num_ranks // (2 * total), num_ranks - 1)
        for piece, end in zip(pieces, ends, strict=True)
    ]
    return [piece for piece, its in zip(pieces, owner, strict=True) if its == rank]


def _run(
    make_worker: Callable[[], Callable[[Piece], Result]],
    pieces: Sequence[Piece],
    threads: int,
    cost: Callable[[Piece], int],
    advance: Callable[[int], object],
    finish: Callable[[Any], object],
    meanwhile: Callable[[], object],
) -> list[Result]:
    steady_malloc()
    lock, stop, queue = threading.Lock(), threading.Event(), iter(enumerate(pieces))
    results: list[Any] = [None] * len(pieces)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            worker = make_worker()
            while not stop.is_set():
                with lock:
                    number, piece = next(queue, (-1, None))
                if number < 0:
                    finish(worker)
                    return
                results[number] = worker(piece)  # type: ignore[arg-type]
                with lock:
                    advance(cost(piece))  # type: ignore[arg-type]
        except BaseException as error:
            errors.append(error)
            stop.set()

    others = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(pieces)) - 1)]
    try:
        for thread in others:
            thread.start()
        meanwhile()
        work()
        for thread in others:
            thread.join()
    finally:  # an interrupt too must find no thread still writing
        stop.set()
        for thread in others:
            with suppress(RuntimeError):  # it was never started, and would find that it has to stop
                thread.join()
    if errors:
        raise errors[0]
    return results


def one_blas_thread() -> AbstractContextManager[object]:
    """BLAS on one thread each while slots go side by side: faster, and the same bytes on every machine."""
    import scipy.linalg.cython_blas  # noqa: F401 (only a library that is loaded already can be limited)
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits


def steady_malloc() -> None:
    """Freeing one large block teaches glibc to keep such blocks instead of giving pages back each time."""
    bytes(16 << 20)
