"""Pieces taken by forked processes: for work of many short calls, where threads would wait for one another.

A forked process begins with all that this one has open and in memory; it gives back the results of its pieces, and
nothing else that it does reaches this one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NoReturn, TypeVar

from vlmerge_cli.errors import MergeError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

ENDING = {signal.SIGINT, signal.SIGTERM}


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
    here, board, told = os.getpid(), Board(processes), 0
    forks: list[Fork] = []

    def work(place: int, tell: Callable[[], object]) -> dict[int, Result]:
        found: dict[int, Result] = {}
        try:
            worker = make_worker()
            while (number := board.take()) < len(pieces):
                found[number] = worker(pieces[number])
                board.add(place, cost(pieces[number]))
                tell()
        except BaseException:
            board.stop()
            raise
        return found

    def stop_when_alone() -> None:
        if os.getppid() != here:
            board.stop()

    def tell() -> None:
        nonlocal told
        done = board.done  # once: the others go on
        advance(done - told)
        told = done
        if any(fork.has_failed for fork in forks):
            board.stop()

    try:
        for place in range(1, processes):
            with _held_back():
                forks.append(Fork.start(partial(work, place, stop_when_alone)))
        parts = [work(0, tell), *(fork.result() for fork in forks)]
        tell()
    finally:  # an interrupt too must find no process still at work
        board.stop()
        for fork in forks:
            fork.pipe.close()  # all of them first: each fork holds the ends of those before it open
        for fork in forks:
            fork.wait()
        board.close()
    found = {number: result for part in parts for number, result in part.items()}
    return [found[number] for number in range(len(pieces))]


class Board:
    """What all processes see and write: the number of the next piece, and how much each has done."""

    def __init__(self, processes: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, 8 * (1 + processes))).cast("q")
        self._lock = os.memfd_create("lock")

    def take(self) -> int:
        """The next piece's number; beyond all of them after ``stop``."""
        with self._locked():
            number = self._cells[0]
            self._cells[0] = number + 1
            return number

    def stop(self) -> None:
        with self._locked():
            self._cells[0] = 1 << 62

    def add(self, place: int, amount: int) -> None:
        """To what the process at a place has done."""
        self._cells[1 + place] += amount

    @property
    def done(self) -> int:
        """By all of them."""
        return sum(self._cells[1:])

    def close(self) -> None:
        os.close(self._lock)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock that a process gives up when it is killed."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)


@dataclass
class Fork:
    """One process at work on a task, and the pipe that its outcome comes through."""

    pid: int
    pipe: BinaryIO

    @classmethod
    def start(cls, task: Callable[[], Any]) -> Fork:
        read, write = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(read)
            os.close(write)
            raise
        if pid == 0:
            os.close(read)
            _carry_out(task, write)
        os.close(write)
        return cls(pid, os.fdopen(read, "rb"))

    @property
    def has_failed(self) -> bool:
        """Whether it has ended otherwise than with an outcome."""
        with suppress(ChildProcessError):  # where the system is told to forget children that end
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return ended is not None and ended.si_status != 0
        return False

    def result(self) -> Any:
        """Waits for it; raises what the task raised."""
        try:
            failed, value = pickle.load(self.pipe)
        except (EOFError, pickle.UnpicklingError):
            fix = "if the machine is out of memory, use fewer --threads"
            raise MergeError("a process of this run was killed", fix=fix) from None
        if failed:
            raise value
        return value

    def wait(self) -> None:
        """Until it is gone."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@contextmanager
def _held_back() -> Iterator[None]:
    """No signal ends this process inside; a fork of it lets them through again when it is ready."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _carry_out(task: Callable[[], Any], write: int) -> NoReturn:
    """In the fork: write the outcome and end, without what the first process does at its end."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            outcome = False, task()
        except Exception as error:
            outcome = True, _sendable(error)
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe, pickle.HIGHEST_PROTOCOL)
        code = 0
    finally:
        os._exit(code)


def _sendable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
