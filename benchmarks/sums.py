"""Running sums of XᵀX for one BEiT-base layer: three inputs of 768 columns and one of 3072, without a model.

    python -m benchmarks.sums

Beside vlmerge's running sums the published way: each batch to float64, the whole product, added. Alternating, on one
and on two processors; the error is ‖G - G64‖ / ‖G64‖, the largest of the four, after all batches. The limit is
the multiply-adds of one triangle a Gram at the best rate of float32 products measured in the same run.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.harness import num_runs, save, spread
from benchmarks.limits import matrix_rate
from vlmerge_cli import console
from vlmerge_cli.engine.pool import one_blas_thread
from vlmerge_cli.grams.sums import make_sums
from vlmerge_cli.methods import linalg

WIDTHS = {"qkv": 768, "proj": 768, "fc1": 768, "fc2": 3072}
NUM_TOKENS = 32 * 197  # a batch of 32 images at 224 px
NUM_BATCHES = 4  # one after the other, as a pass over data has them
Grams = dict[str, np.ndarray[Any, Any]]


def main() -> None:
    inputs = activations()
    truth = {key: x.double().T.numpy() @ x.double().numpy() for key, x in inputs.items()}
    for threads in range(1, len(os.sched_getaffinity(0)) + 1)[:2]:
        with on_processors(threads):
            measure(inputs, truth, threads)


def activations() -> dict[str, torch.Tensor]:
    """Columns of very different size with a mean, as activations have."""
    draw = torch.Generator().manual_seed(0)
    return {
        key: (torch.randn(NUM_TOKENS, width, generator=draw) + 0.2)
        * torch.logspace(0, -2, width)[torch.randperm(width, generator=draw)]
        for key, width in WIDTHS.items()
    }


@contextmanager
def on_processors(number: int) -> Iterator[None]:
    """This process and the threads that it starts now on so many processors."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, sorted(before)[:number])
    torch.set_num_threads(number)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)


def measure(inputs: Mapping[str, torch.Tensor], truth: Grams, threads: int) -> None:
    ways: dict[str, Way] = {"running sums": Ours(threads), "published way: float64 products": Published()}
    rate = matrix_rate("float32", 3072, threads)
    found: dict[str, list[float]] = {name: [] for name in ways}
    num_rounds = num_runs(5) + 1
    for number in range(num_rounds):
        for name, way in ways.items():
            with way.setting():
                started = time.perf_counter()
                for _ in range(NUM_BATCHES):
                    way.add(inputs)
                way.flush()
                took = (time.perf_counter() - started) / NUM_BATCHES
            console.say(f"{threads} processors: {name} {took:.3f} s")
            if number:
                found[name].append(round(took, 4))
    rate = max(rate, matrix_rate("float32", 3072, threads))
    operations = NUM_TOKENS * sum(width * (width + 1) for width in WIDTHS.values())
    values = {
        name: {
            **spread(walls),
            "tokens_per_second": round(NUM_TOKENS / statistics.median(walls)),
            "error": max(
                error(gram, num_rounds * NUM_BATCHES * truth[key]) for key, gram in ways[name].grams().items()
            ),
            "share_of_limit": round(operations / rate / statistics.median(walls), 3),
            "matrix_gflops": round(rate / 1e9, 1),
        }
        for name, walls in found.items()
    }
    save("sums", values, {"work": f"W4, {threads} processor{'s' * (threads > 1)}", "num_threads": threads})


class Way(Protocol):
    """One way to add up Grams, batch after batch."""

    def setting(self) -> AbstractContextManager[object]:
        """What is in force while it adds."""

    def add(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """One batch."""

    def flush(self) -> None:
        """All of it is in the sums when this returns."""

    def grams(self) -> Grams:
        """The whole sums; nothing is added afterwards."""


class Ours:
    def __init__(self, threads: int) -> None:
        self._sums = make_sums(WIDTHS, torch.device("cpu"), "float32", threads)

    @contextmanager
    def setting(self) -> Iterator[None]:
        """Its workers are the threads: BLAS has one each, and PyTorch, which only copies here, one as well."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with one_blas_thread():
                yield
        finally:
            torch.set_num_threads(threads)

    def add(self, inputs: Mapping[str, torch.Tensor]) -> None:
        for key, x in inputs.items():
            self._sums.add(key, x)

    def flush(self) -> None:
        self._sums.flush()

    def grams(self) -> Grams:
        found = {key: linalg.unpack(self._sums.triangle(key)) for key in WIDTHS}
        self._sums.close()
        return found


class Published:
    def __init__(self) -> None:
        self._grams: dict[str, torch.Tensor] = {}
        self.setting = nullcontext

    def add(self, inputs: Mapping[str, torch.Tensor]) -> None:
        for key, x in inputs.items():
            wide = x.to(torch.float64)
            gram = wide.T @ wide
            if key in self._grams:
                self._grams[key] += gram
            else:
                self._grams[key] = gram

    def flush(self) -> None:
        pass

    def grams(self) -> Grams:
        return {key: gram.numpy() for key, gram in self._grams.items()}


def error(found: Any, truth: Any) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    main()
