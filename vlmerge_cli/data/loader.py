"""Batches, prepared ahead by worker processes or one thread; which ones they are depends on neither."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import torch

from vlmerge_cli import ranks
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.order import Place, Stream, chunks, slice_of
from vlmerge_cli.data.prepare import Form, Prepare, augmented, finished
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.errors import VlmergeError

AHEAD = 3  # batches a worker (or the thread) prepares in advance


class Loader:
    """Gives this rank's batches of ``data`` on ``device``, images as floats in [-1, 1].

    Training: ``batch_size`` is the global batch of a step; ``steps(start)`` goes on for ever, and the samples
    of step s are the same whatever the number of ranks and workers and wherever the run was started.
    Evaluation: ``batch_size`` is the size of every chunk, and ``all()`` gives each sample once, over all
    ranks together. RandAugment runs in the workers for a CPU and on the device otherwise.

    Problems met while reading are added to ``bad``, which raises DataError when there are too many.
    """

    def __init__(
        self, data: DataSet, form: Form, batch_size: int, *, seed: int = 0, training: bool = True,
        num_workers: int = 0, device: torch.device | str = "cpu", bad: BadSamples | None = None,
        rank: int | None = None, world_size: int | None = None,
    ) -> None:  # fmt: skip
        self.data, self.batch_size, self.num_workers = data, batch_size, num_workers
        self.device = torch.device(device)
        self.bad = bad if bad is not None else BadSamples()
        self.rank = ranks.rank() if rank is None else rank
        self.world_size = ranks.world_size() if world_size is None else world_size
        sizes = [len(source.reader) for source in data.sources]
        starts = [getattr(source.reader, "starts", None) for source in data.sources]
        self.stream = Stream(sizes, [source.weight for source in data.sources], batch_size, seed, starts)
        self._fetch = _Fetch(Prepare(data, form, seed, training), self.device.type == "cpu")
        self._plan = _Plan()
        self._workers: Any = None
        if training:
            slice_of([Place(0, 0, 0)] * batch_size, self.rank, self.world_size)  # a batch that cannot be shared

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """This rank's part of the global batches of steps ``start``, ``start`` + 1, ... up to ``stop``."""
        numbers = count(start) if stop is None else range(start, stop)
        # The workers' iterator keeps these places; did they keep the loader, the circle would be freed in an
        # order in which the workers are not told to stop, which takes five seconds each time.
        stream, rank, world_size = self.stream, self.rank, self.world_size
        return self._run(slice_of(stream.batch(step), rank, world_size) for step in numbers)

    def all(self) -> Iterator[Batch]:
        """This rank's chunks: rank, rank + world size, ...; the same number on every rank."""
        sizes = [len(source.reader) for source in self.data.sources]
        return self._run(chunks(sizes, self.batch_size, self.rank, self.world_size))

    def _run(self, wanted: Iterator[list[Place]]) -> Iterator[Batch]:
        fetched = self._by_workers(wanted) if self.num_workers else self._by_thread(wanted)
        names = ", ".join(source.name for source in self.data.sources)
        try:
            for batch in fetched:
                if isinstance(batch, VlmergeError):
                    raise batch
                seen = int(batch.valid.sum()) + len(batch.problems)
                self.bad.meet(seen, batch.problems, f"{names} ({self.data.split})")
                yield finished(batch.to(self.device, non_blocking=True))
        except VlmergeError:
            self._workers = None  # stop them now: the traceback keeps this frame, and the frame would keep them
            del fetched
            raise

    def _by_thread(self, wanted: Iterator[list[Place]]) -> Iterator[Batch | VlmergeError]:
        with ThreadPoolExecutor(1, "batches") as pool:
            waiting: deque[Future[Batch | VlmergeError]] = deque()
            try:
                for places in wanted:
                    waiting.append(pool.submit(self._fetch.__getitems__, places))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _by_workers(self, wanted: Iterator[list[Place]]) -> Iterator[Batch | VlmergeError]:
        from torch.utils.data import DataLoader

        if self._workers is None:
            self._workers = DataLoader(
                self._fetch,  # type: ignore[arg-type]
                batch_sampler=self._plan,
                collate_fn=_as_it_is,
                num_workers=self.num_workers,
                prefetch_factor=AHEAD,
                persistent_workers=True,
                pin_memory=self.device.type == "cuda",
            )
        self._plan.wanted = wanted
        return iter(self._workers)


class _Plan:
    """What the workers are to fetch next."""

    def __init__(self) -> None:
        self.wanted: Iterator[list[Place]] = iter(())

    def __iter__(self) -> Iterator[list[Place]]:
        return self.wanted


class _Fetch:
    """Runs in a worker. A user's error is handed over as a value: raised there, it would arrive as a
    traceback.
    """

    def __init__(self, prepare: Prepare, augment: bool) -> None:
        self.prepare, self.augment = prepare, augment

    def __getitems__(self, places: list[Place]) -> Batch | VlmergeError:
        try:
            batch = self.prepare(places)
        except VlmergeError as error:
            return error
        return augmented(batch) if self.augment else batch


def _as_it_is(batch: Any) -> Any:
    return batch
