"""Run a model over batches and write its Grams: in as many rounds as memory asks for, over any number of ranks.

The sums of all layers live in memory; where that is more than ``max_memory_bytes``, groups of layers take a round
over the data each. Every minute, and when a signal asks it to stop, a rank saves what it has. At the end the ranks'
sums are added in the order of ranks.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from vlmerge_cli import console, ranks
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.errors import UsageError
from vlmerge_cli.grams import gram_file
from vlmerge_cli.grams.collector import Collector, Site, collect_grams, find_sites
from vlmerge_cli.grams.sums import scratch_bytes, sum_bytes
from vlmerge_cli.grams.unfinished import GramState, Progress
from vlmerge_cli.layouts.layout import Layout

NumpyArray = np.ndarray[Any, Any]


class Batches(Protocol):
    """This rank's share of the data, always in the same order."""

    @property
    def num(self) -> int: ...

    def run(self, first: int, collector: Collector) -> Iterator[None]:
        """Run the model over batches ``first``, ``first`` + 1, ...; one step a batch."""


@dataclass(frozen=True)
class Job:
    """``about`` goes into the file (data, passes, ...), and with it everything else that the sums depend on."""

    module: nn.Module
    layout: Layout
    target: Target
    checkpoint_digest: str
    about: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    include_padding: bool = False
    max_memory_bytes: int | None = None
    workers: int = 1
    resume: bool = False
    snapshot_seconds: float = 60.0

    @property
    def state_folder(self) -> Path:
        return self.target.path.with_name(self.target.path.name + ".resume")


def plan_groups(sites: Sequence[Site], max_memory_bytes: int | None, precision: str, workers: int) -> list[list[Site]]:
    """Consecutive sites whose sums fit together. Raises UsageError when one alone does not."""
    if max_memory_bytes is None:
        return [list(sites)]
    groups: list[list[Site]] = [[]]
    for site in sites:
        wider = [*groups[-1], site]
        if memory_bytes(wider, precision, workers) <= max_memory_bytes:
            groups[-1] = wider
            continue
        if groups[-1]:
            groups.append([site])
        else:
            groups[-1] = [site]
        needed = memory_bytes([site], precision, workers)
        if needed > max_memory_bytes:
            what = f"--max-memory {console.size(max_memory_bytes)} is too small: {site.label} takes"
            raise UsageError(f"{what} {console.size(needed)}", fix="allow at least that much")
    return groups


def memory_bytes(sites: Sequence[Site], precision: str, workers: int) -> int:
    """Memory of the sums of some sites and of what making them takes besides."""
    widths = [site.width for site in sites]
    return sum(map(sum_bytes, widths)) + scratch_bytes(widths, precision, workers)


def run(job: Job, batches: Batches) -> dict[str, Any]:
    """Collect and write the file on rank 0; what is known of it, on every rank.

    Raises UsageError, LayoutError, MergeError and CheckpointError; KeyboardInterrupt after a signal, with the
    state saved.
    """
    job.target.check()
    sites = find_sites(job.module, job.layout)
    groups = plan_groups(sites, job.max_memory_bytes, job.precision, job.workers)
    described: dict[str, Any] = {
        "checkpoint": job.checkpoint_digest,
        "padding": job.include_padding,
        "precision": job.precision,
    }
    described |= job.about
    plan = {"num_ranks": ranks.world_size(), "groups": [[site.key for site in group] for group in groups]}
    state = GramState(job.state_folder, {**described, **plan}, ranks.rank())
    progress, sums = _start(job, state)
    console.say(_announcement(groups, job, batches, progress))
    with _stop_on_signals() as stopped:
        for number in range(progress.group, len(groups)):
            here = progress if number == progress.group else Progress(number)
            _round(job, batches, groups, here, sums if number == progress.group else None, state, stopped)
    widths = {site.key: site.width for site in sites}
    with state.finished(len(groups)) as (own, own_counts):
        described["tokens"] = _total(own_counts)
        kept = {key: width for key, width in widths.items() if described["tokens"].get(key)}
        _write(job.target, kept, own, described)
    ranks.barrier()  # the file is there before anyone forgets what is in it
    state.remove()
    return described


def _start(job: Job, state: GramState) -> tuple[Progress, Any]:
    if not state.found():
        return Progress(), None
    if job.resume:
        return state.load()
    if not job.target.force:
        fix = "go on with --resume, or start again with --force"
        raise UsageError(f"an interrupted collection is at {job.state_folder}", fix=fix)
    state.now.unlink()
    return Progress(), None


def _round(
    job: Job,
    batches: Batches,
    groups: list[list[Site]],
    start: Progress,
    sums: Callable[[], Iterator[tuple[str, NumpyArray]]] | None,
    state: GramState,
    stopped: threading.Event,
) -> None:
    """One pass over the data for one group of sites."""
    group = groups[start.group]
    keys = {site.key for site in group}
    widths = {site.key: site.width for site in group}
    title = "Grams" if len(groups) == 1 else f"Grams {start.group + 1} of {len(groups)}"
    with ExitStack() as stack:
        collector = stack.enter_context(
            collect_grams(
                job.module, job.layout, precision=job.precision, include_padding=job.include_padding, only=keys,
                threads=job.workers,
            )
        )  # fmt: skip
        for key, triangle in sums() if sums is not None else ():
            collector.sums.set(key, triangle)
        collector.counts.update(start.counts)

        def save(done: int) -> None:
            collector.sums.flush()
            at = Progress(start.group, done, collector.counts)
            state.save(at, widths, collector.triangle, state.now)

        progress = console.progress(title, batches.num, unit="batches", done=start.num_batches)
        report = _Report(stack.enter_context(progress), batches.num, start.num_batches, collector.num_tokens)
        saved = time.monotonic()
        done = start.num_batches
        for _ in batches.run(done, collector) if done < batches.num else ():
            done += 1
            report(collector.num_tokens)
            if stopped.is_set():
                save(done)
                fix = f"{done} of {batches.num} batches are kept: go on with --resume"
                console.say(f"{title}: stopped; {fix}")
                raise KeyboardInterrupt
            if time.monotonic() - saved >= job.snapshot_seconds and done < batches.num:
                save(done)
                saved = time.monotonic()
        finished = Progress(start.group, done, collector.counts)
        state.save(finished, widths, collector.triangle, state.group(start.group))
        state.save(Progress(start.group + 1), {}, collector.triangle, state.now)


def _announcement(groups: list[list[Site]], job: Job, batches: Batches, progress: Progress) -> str:
    largest = max(memory_bytes(group, job.precision, job.workers) for group in groups)
    num_sites = sum(map(len, groups))
    text = f"{num_sites} Gram matrices over {batches.num} batches, {console.size(largest)} of sums in memory"
    if len(groups) > 1:
        spans = [f"{group[0].slot.layer}-{group[-1].slot.layer}" for group in groups]
        text += f"; {len(groups)} rounds over the data, for layers {', '.join(spans)}"
    if progress.group or progress.num_batches:
        where = f" of round {progress.group + 1}" if len(groups) > 1 else ""
        text += f"; going on after batch {progress.num_batches}{where}"
    return text


def _total(own: Mapping[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for its in ranks.gather_objects(dict(own)):
        for key, count in its.items():
            counts[key] = counts.get(key, 0) + count
    return {key: count for key, count in sorted(counts.items()) if count}


def _write(
    target: Target, widths: Mapping[str, int], own: Callable[[str], NumpyArray], described: Mapping[str, Any]
) -> None:
    """Every rank hands in each sum in turn; rank 0 writes."""
    if ranks.is_main():
        gram_file.write(target, widths, lambda key: ranks.sum_at_main(own(key)), described)
    else:
        for key in widths:
            ranks.sum_at_main(own(key))


class _Report:
    """Progress in batches, with tokens a second and time left every quarter of a minute."""

    def __init__(self, progress: console.Progress, num_batches: int, done: int, num_tokens: int) -> None:
        self.progress, self.num_batches, self.first, self.done = progress, num_batches, done, done
        self.first_tokens = num_tokens
        self.started = self.said = time.monotonic()

    def __call__(self, num_tokens: int) -> None:
        """One more batch is done, and ``num_tokens`` in all."""
        self.done += 1
        self.progress(1)
        now = time.monotonic()
        if now - self.said >= 15:
            self.said, seconds = now, now - self.started
            speed = console.count((num_tokens - self.first_tokens) / seconds)
            left = seconds / (self.done - self.first) * (self.num_batches - self.done) / 60
            at = f"batch {self.done} of {self.num_batches}"
            self.progress.note(f"{at}, {speed} tokens/s, {left:.1f} min left")


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Set on SIGINT or SIGTERM, so that the batch in the making is finished and saved; a second acts at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _: object) -> None:
        stopped.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
