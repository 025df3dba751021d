"""What every command that trains or evaluates does around its work: device, process group, signals."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from vlmerge_cli import devices, ranks


@contextmanager
def processes(device: str) -> Iterator[str]:
    """The device of this process, with its peers joined while the block runs; SIGTERM counts as Ctrl-C."""
    where = devices.resolve(device, prefer_gpu=True)
    if where == "cuda" and ranks.world_size() > 1:
        where = f"cuda:{ranks.local_rank()}"
    ranks.start(where)
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        yield where
    finally:
        signal.signal(signal.SIGTERM, before)
        ranks.stop()


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt
