"""Write-behind: the disk writes what is done while more is being made.

Left alone, the system keeps written pages until many have gathered: a sync at the end then waits for all of them,
and an output of several gigabytes fills the memory with pages that nobody reads. Here each window of bytes is handed
to the disk when it is full; of a large output, pages that have reached the disk are given back for the next ones.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeAlias

WINDOW_BYTES = 32 << 20
#: Windows that may still be on their way to the disk when an older one is given back.
NUM_KEPT = 4
#: Outputs beyond this share of the machine's memory are large: where other files fill the memory, to make room for
#: their pages costs more than to write them.
LARGE_SHARE = 0.04

Extent: TypeAlias = tuple[int, int, int]  # open file, first byte, one past the last


class WriteBehind:
    """Told of every extent that was written, from any thread. ``give_back``: pages too, once they are on disk."""

    def __init__(self, give_back: bool) -> None:
        self._give_back = give_back
        self._lock = threading.Lock()
        self._window: list[Extent] = []
        self._num_bytes = 0
        self._older: deque[list[Extent]] = deque()

    def wrote(self, fd: int, start: int, stop: int) -> None:
        with self._lock:
            self._window.append((fd, start, stop))
            self._num_bytes += stop - start
            if self._num_bytes < WINDOW_BYTES:
                return
            full, self._window, self._num_bytes = self._window, [], 0
            self._older.append(full)
            oldest = self._older.popleft() if len(self._older) > NUM_KEPT else []
        _advise(full)
        if self._give_back:
            _advise(oldest)


def is_large(num_bytes: int) -> bool:
    return num_bytes > LARGE_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same bytes in as few extents as possible."""
    found: Extent | None = None
    for fd, start, stop in sorted(extents):
        if found is not None and found[0] == fd and found[2] == start:
            found = (fd, found[1], stop)
            continue
        if found is not None:
            yield found
        found = (fd, start, stop)
    if found is not None:
        yield found


def _advise(extents: Iterable[Extent]) -> None:
    """Linux starts to write pages that are dirty, and drops those that are not."""
    if hasattr(os, "posix_fadvise"):
        for fd, start, stop in joined(extents):
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)
