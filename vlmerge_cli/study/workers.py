"""A few processes that take nodes as they become ready; one that dies costs its node and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from vlmerge_cli.errors import VlmergeError
from vlmerge_cli.outputs import lock
from vlmerge_cli.study.nodes import Node, Place
from vlmerge_cli.study.settings import StudySettings

PATIENCE_SECONDS = 60  # that a worker has for saving its state when the study is stopped

Do = Callable[[Node, Place, StudySettings], None]


@dataclass(frozen=True)
class Done:
    """How a node ended; ``error`` is empty where it went well."""

    seconds: float
    error: str = ""


@dataclass
class _Worker:
    process: Any
    connection: Connection
    node: Node | None = None


class Pool:
    """``num`` processes that call ``do``. Leaving the block stops them: those that train save their state first."""

    def __init__(self, num: int, do: Do, settings: StudySettings) -> None:
        self._num, self._do, self._settings = num, do, settings
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()  # an idle one ends by this
            if worker.node is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(PATIENCE_SECONDS)
            worker.process.kill()
            worker.process.join()

    def run(self, nodes: Sequence[Node], place: Callable[[Node], Place]) -> Iterator[tuple[Node, Done]]:
        """Each node after those it needs (that are among ``nodes``), and how it ended.

        Nodes that need a failed one are left out.
        """
        waiting = list(nodes)
        open_names = {node.name for node in nodes}
        failed: set[str] = set()
        while True:
            lost = {node.name for node in waiting if failed & set(node.needs)}
            failed |= lost
            waiting = [node for node in waiting if node.name not in lost]
            if lost:
                continue  # what needs these is lost, too
            ready = [node for node in waiting if not open_names & set(node.needs)]
            for node in ready[: self._num - sum(w.node is not None for w in self._workers)]:
                waiting.remove(node)
                self._give(node, place(node))
            busy = [worker for worker in self._workers if worker.node is not None]
            if not busy:
                assert not waiting, f"nodes that wait for each other: {[node.name for node in waiting]}"
                return
            for worker, node, done in self._ended(busy):
                worker.node = None
                open_names.discard(node.name)
                if done.error:
                    failed.add(node.name)
                yield node, done

    def _give(self, node: Node, place: Place) -> None:
        worker = next((w for w in self._workers if w.node is None), None) or self._start(place.root)
        worker.node = node
        worker.connection.send((node, place))

    def _start(self, root: Path) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._do, self._settings, root), name="node")
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _ended(self, busy: list[_Worker]) -> Iterator[tuple[_Worker, Node, Done]]:
        """Those that have something to say, or have died."""
        heard = wait([worker.connection for worker in busy])
        for worker in busy:
            if worker.connection not in heard:
                continue
            assert worker.node is not None
            node = worker.node
            try:
                done = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._workers.remove(worker)
                done = Done(0.0, f"its process ended with {_ending(worker.process.exitcode)}")
            yield worker, node, done


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _serve(connection: Connection, do: Do, settings: StudySettings, root: Path) -> None:
    """What a worker process does: nodes until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the study, which stops its workers
    import torch

    torch.set_num_threads(1)  # results must not depend on how many work side by side
    with lock.share(root.parent):
        while True:
            try:
                node, place = connection.recv()
                connection.send(_one(node, place, do, settings))
            except (EOFError, OSError, KeyboardInterrupt):
                return


def _one(node: Node, place: Place, do: Do, settings: StudySettings) -> Done:
    place.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with open(place.folder / "log.txt", "a", encoding="utf-8") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            do(node, place, settings)
        except VlmergeError as error:
            return Done(time.perf_counter() - started, str(error))
        except Exception as error:
            traceback.print_exc()
            return Done(time.perf_counter() - started, f"{type(error).__name__}: {error}; see its log.txt")
    return Done(time.perf_counter() - started)
