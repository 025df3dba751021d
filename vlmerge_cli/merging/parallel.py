"""Pieces of work taken in order by a few threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

import numpy as np

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def run(
    make_worker: Callable[[], Callable[[Piece], Result]],
    pieces: Sequence[Piece],
    threads: int,
    advance: Callable[[Piece], object],
) -> list[Result]:
    """Results in the order of the pieces; each thread has a worker of its own.

    The first error stops all threads and is raised here, as is an interrupt.
    """
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
                    return
                results[number] = worker(piece)  # type: ignore[arg-type]
                with lock:
                    advance(piece)  # type: ignore[arg-type]
        except BaseException as error:
            errors.append(error)
            stop.set()

    others = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(pieces)) - 1)]
    try:
        for thread in others:
            thread.start()
        work()
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
    np.empty(16 << 20, np.uint8)
