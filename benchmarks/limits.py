"""What this machine can do at best: copy, read and write bytes, multiply matrices.

python -m benchmarks.limits

The best of several runs each, on one and on two threads. Memory that is copied or written from has been touched
before; the file that is read is in the page cache.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.harness import BLOCK_BYTES, WORK, num_runs, read, save
from vlmerge_cli import console

COPY_BYTES, WRITE_BYTES, WRITE_BLOCK = 1 << 30, 1 << 30, 1 << 20
WIDTHS = (768, 3072)


def main() -> None:
    source = inputs.base()
    rates: dict[str, Callable[[int], float]] = {
        "copy memory": copy_rate,
        "read a warm file": lambda threads: read_rate(source, threads),
        "write a new file": write_rate,
        "write a new file, with fsync": lambda threads: write_rate(threads, sync=True),
        **{
            f"multiply {dtype} matrices of {width}": lambda threads, dtype=dtype, width=width: matrix_rate(
                dtype, width, threads
            )
            for dtype in ("float32", "float64")
            for width in WIDTHS
        },
    }
    rows = {}
    for name, rate in rates.items():
        unit = "GFLOP/s" if "multiply" in name else "GB/s"
        one, two = (round(rate(threads) / 1e9, 2) for threads in (1, 2))
        console.say(f"{name}: {one} and {two} {unit}")
        rows[name] = {"one_thread": one, "two_threads": two, "best": max(one, two), "unit": unit}
    save("limits", rows)


def copy_rate(threads: int) -> float:
    """Bytes a second from one array to another."""
    source, target = (np.ones(COPY_BYTES, np.uint8) for _ in range(2))
    parts = _parts(COPY_BYTES, threads)
    return COPY_BYTES / best(lambda: _side_by_side(lambda a, b: np.copyto(target[a:b], source[a:b]), parts))


def read_rate(path: Path, threads: int) -> float:
    """Bytes a second from a file in the page cache into small buffers."""
    read(path)

    def part(first: int, last: int) -> None:
        block = memoryview(bytearray(BLOCK_BYTES // 2))
        with open(path, "rb", buffering=0) as file:
            file.seek(first)
            while first < last and (count := file.readinto(block[: last - first])):
                first += count

    size = path.stat().st_size
    return size / best(lambda: _side_by_side(part, _parts(size, threads)))


def write_rate(threads: int, sync: bool = False) -> float:
    """Bytes a second into a new file whose room was reserved."""
    path, block = WORK / "limit-write", np.ones(WRITE_BLOCK, np.uint8)

    def whole() -> None:
        with open(path, "wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, WRITE_BYTES)
            _side_by_side(lambda first, last: part(file.fileno(), first, last), _parts(WRITE_BYTES, threads))
            if sync:
                os.fsync(file.fileno())

    def part(fd: int, first: int, last: int) -> None:
        for at in range(first, last, WRITE_BLOCK):
            os.pwrite(fd, block, at)

    def clean() -> None:
        path.unlink(missing_ok=True)
        os.sync()

    return WRITE_BYTES / best(whole, clean)


def matrix_rate(dtype: str, width: int, threads: int) -> float:
    """Operations a second (two for a multiply-add) of square products, by numpy or torch, whichever is faster."""
    import torch
    from threadpoolctl import threadpool_limits

    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal((width, width)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    x, y, z = map(torch.from_numpy, (a, b, out))
    repeat = max(1, 3072 // width)
    before = torch.get_num_threads()
    with threadpool_limits(threads):
        torch.set_num_threads(threads)
        took = min(
            best(lambda: [np.matmul(a, b, out=out) for _ in range(repeat)]),
            best(lambda: [torch.mm(x, y, out=z) for _ in range(repeat)]),
        )
        torch.set_num_threads(before)
    return repeat * 2 * width**3 / took


def best(call: Callable[[], Any], clean: Callable[[], Any] = lambda: None) -> float:
    """The fewest wall seconds of several calls after one that warms up; ``clean`` comes after each."""
    found = []
    for _ in range(num_runs(5) + 1):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
        clean()
    return min(found[1:])


def _parts(size: int, threads: int) -> list[tuple[int, int]]:
    return [(size * i // threads, size * (i + 1) // threads) for i in range(threads)]


def _side_by_side(call: Callable[[int, int], object], parts: list[tuple[int, int]]) -> None:
    workers = [threading.Thread(target=call, args=part) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
