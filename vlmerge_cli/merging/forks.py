"""Pieces taken by forked processes: for work of many short calls, where threads would wait for one another.

A forked process begins with all that this one has open and in memory; it gives back the results of its pieces, and
nothing else that it does reaches this one.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vlmerge_cli.errors import MergeError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

NUMBER_BYTES = 8


def can_fork() -> bool:
    """Only on Linux, and while no other thread runs here: a lock that one holds would stay locked in the fork."""
    return sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1


def run(
    make_worker: Callable[[], Callable[[Piece], Result]],
    pieces: Sequence[Piece],
    processes: int,
    cost: Callable[[Piece], int],
    advance: Callable[[int], object],
) -> list[Result]:
    """Results in the order of the pieces; this process is one of the ``processes``, and each has a worker of its own.

    The first error stops all and is raised here, as is an interrupt. Raises MergeError when a process is killed.
    """
    here = os.getpid()
    queue = os.memfd_create("pieces")  # processes that read from one open file never read the same
    os.write(queue, b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in range(len(pieces))))
    os.lseek(queue, 0, os.SEEK_SET)
    shared = memoryview(mmap.mmap(-1, NUMBER_BYTES * (processes + 1))).cast("Q")  # whether to stop; what each has done

    def work(place: int, tell: Callable[[], object]) -> dict[int, Result]:
        worker = make_worker()
        found: dict[int, Result] = {}
        while not shared[0] and (number := os.read(queue, NUMBER_BYTES)):
            at = int.from_bytes(number, "little")
            found[at] = worker(pieces[at])
            shared[place] += cost(pieces[at])
            tell()
        return found

    def stop_when_alone() -> None:
        if os.getppid() != here:
            shared[0] = 1

    told = 0

    def tell() -> None:
        nonlocal told
        done = sum(shared[1:])
        advance(done - told)
        told = done

    forks: list[_Fork] = []
    try:
        for place in range(1, processes):
            forks.append(_Fork.start(lambda place=place: work(place, stop_when_alone)))  # type: ignore[misc]
        parts = [work(processes, tell)]
        parts += [fork.result() for fork in forks]
        tell()
    finally:  # an interrupt too must find no process still at work
        shared[0] = 1
        for fork in forks:
            fork.end()
        os.close(queue)
    found = {number: result for part in parts for number, result in part.items()}
    return [found[number] for number in range(len(pieces))]


@dataclass
class _Fork:
    """One process at work on a task, and the pipe that its outcome comes through."""

    pid: int
    pipe: Any

    @classmethod
    def start(cls, task: Callable[[], Any]) -> _Fork:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _carry_out(task, write)
        os.close(write)
        return cls(pid, os.fdopen(read, "rb"))

    def result(self) -> Any:
        """Waits for it; raises what the task raised."""
        try:
            failed, value = pickle.load(self.pipe)
        except EOFError:
            fix = "if the machine is out of memory, use fewer --threads"
            raise MergeError("a process of this run was killed", fix=fix) from None
        if failed:
            raise value
        return value

    def end(self) -> None:
        """Waits until it is gone; what it had to say is lost."""
        self.pipe.close()
        os.waitpid(self.pid, 0)


def _carry_out(task: Callable[[], Any], write: int) -> None:
    """In the fork: write the outcome and end, without what the first process does at its end."""
    code = 1
    try:
        try:
            outcome = False, task()
        except Exception as error:
            outcome = True, error
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe, pickle.HIGHEST_PROTOCOL)
        code = 0
    finally:
        os._exit(code)
