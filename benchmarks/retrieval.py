"""Recalls of 5,000 images and 25,000 captions from features of width 768: memory, and time against matrix products.

    python -m benchmarks.retrieval

Two products of 5,000 × 768 × 25,000 are needed: a rank is counted among all candidates of a query, so each side is the
query once. The rate they are held against is that of the same products in the same chunks, with nothing done to
their results, measured in turns with it. One thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.harness import RESULTS, machine
from vlmerge_cli import console, records
from vlmerge_cli.records import Record
from vlmerge_cli.steps.ranking import CHUNK, recalls

NUM_IMAGES, NUM_TEXTS, WIDTH, NUM_ROUNDS = 5_000, 25_000, 768, 3


def products(images: torch.Tensor, texts: torch.Tensor) -> None:
    for queries, candidates in ((images, texts), (texts, images)):
        for first in range(0, len(queries), CHUNK):
            queries[first : first + CHUNK] @ candidates.T


def seconds(call: Callable[[], object]) -> float:
    """Processor time of this process, which has one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def status(name: str) -> int:
    """A number of bytes that the system keeps of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak() -> int:
    """Set the process's peak back to what it holds now; that."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = functional.normalize(torch.randn(NUM_IMAGES, WIDTH), dim=1)
    owner = torch.arange(NUM_TEXTS) % NUM_IMAGES
    texts = functional.normalize(images[owner] + 0.2 * torch.randn(NUM_TEXTS, WIDTH), dim=1)
    recalls(images[:CHUNK], texts[:CHUNK], owner[:CHUNK] % CHUNK)  # warms up
    before = forget_peak()
    recalls(images, texts, owner)
    extra = status("VmHWM") - before
    ours, bare = [], []
    for _ in range(NUM_ROUNDS):
        ours.append(seconds(lambda: recalls(images, texts, owner)))
        bare.append(seconds(lambda: products(images, texts)))
    values = {
        "cpu_seconds": round(min(ours), 2),
        "cpu_seconds_median": round(statistics.median(ours), 2),
        "products_seconds": round(min(bare), 2),
        "share_of_product_rate": round(min(bare) / min(ours), 3),
        "gflops": round(4 * NUM_IMAGES * NUM_TEXTS * WIDTH / min(ours) / 1e9, 1),
        "extra_peak_mib": round(extra / 2**20, 1),
        "whole_table_mib": round(4 * NUM_IMAGES * NUM_TEXTS / 2**20, 1),
    }
    at = {"row": f"{NUM_IMAGES} images, {NUM_TEXTS} captions, width {WIDTH}", "chunk": CHUNK, "num_threads": 1}
    records.append(RESULTS / "retrieval.jsonl", Record("retrieval", {**at, **machine()}, values))
    console.say(str(values))


if __name__ == "__main__":
    main()
