"""Gram matrices of the whole `base` model: what they add to a forward pass (sums.py: of one layer, alone).

    python -m benchmarks.grams

One batch through all passes of a modality-specific model, again and again, in a process of its own a row:
the forward pass alone, with its Grams, with those that fit in 400 MB (one of several rounds), and the published way
(a float64 product of every input, on the CPU, for each hook and batch) on the same batch. The limit is arithmetic: the
multiply-adds of the forward pass and of one triangle a Gram, at the best rates of float32 matrix products that
this machine shows in the same run. One thread makes Grams while another runs the model, so wall time depends on how
many processors are free; processor time does not.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.harness import RESULTS, machine
from vlmerge_cli import console, devices, records
from vlmerge_cli.engine.pool import one_blas_thread
from vlmerge_cli.grams import expert_inputs, rounds
from vlmerge_cli.grams.collector import Collector, collect_grams, find_sites
from vlmerge_cli.layouts.layout import built_in
from vlmerge_cli.methods.lapack import syrk
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel

BATCH, NUM_ROUNDS = 8, 3
MEMORY_LIMIT = 400_000_000
LAYOUT = built_in("vl-merging")
ROWS = {
    "forward": "forward pass alone",
    "grams": "with Grams",
    "limited": f"with Grams, --max-memory {console.size(MEMORY_LIMIT)}, one round",
    "published": "published way: float64 products",
}


def collect() -> None:
    found = {mode: _in_a_process(mode) for mode in ROWS}
    forward = found["forward"]
    found["published"]["limit_cpu_seconds"] = found["grams"]["limit_cpu_seconds"]  # of the same Grams
    for mode, row in ROWS.items():
        values = found[mode]
        values["share_of_forward"] = forward["cpu_seconds"] / values["cpu_seconds"]
        values["share_of_limit"] = values["limit_cpu_seconds"] / values["cpu_seconds"]
        values["beyond_forward_mib"] = values["peak_mib"] - forward["peak_mib"]
        facts = {"row": row, "preset": "base", "batch": BATCH, **machine()}
        records.append(RESULTS / "grams.jsonl", records.Record("grams", facts, values))


def _in_a_process(mode: str) -> dict[str, Any]:
    """The median of some rounds of one row; a process of its own, for its peak of memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.grams", "row", mode], check=True, capture_output=True, text=True
    )
    values: dict[str, Any] = json.loads(done.stdout)
    console.say(f"{mode}: {values}")
    return values


def row(mode: str) -> None:
    torch.manual_seed(0)
    model = VLModel(preset("base", architecture="specific")).eval()
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(BATCH, 3, 224, 224, generator=draw)
    mask = torch.arange(40)[None] < torch.randint(8, 41, (BATCH, 1), generator=draw)
    ids = torch.randint(1, 30522, (BATCH, 40), generator=draw)
    sites = find_sites(model, LAYOUT)
    if mode == "limited":
        sites = rounds.plan_groups(sites, MEMORY_LIMIT, "float32", 1)[0]

    def batch(into: Collector) -> None:
        expert_inputs.run(model, ids, mask, image, expert_inputs.PASSES, into)

    torch.set_num_threads(max(1, devices.num_cpus() // 2))
    if mode == "published":
        walls, cpus, counts = _published(model, batch)
    elif mode == "forward":
        with torch.no_grad():
            nobody = Collector([], None, True, ())  # type: ignore[arg-type]
            walls, cpus = _timed(lambda: batch(nobody))
        counts = {}
    else:
        with collect_grams(model, LAYOUT, only={site.key for site in sites}, threads=1) as collector:
            walls, cpus = _timed(lambda: (batch(collector), collector.sums.flush()))
            counts = {key: count // (NUM_ROUNDS + 1) for key, count in collector.counts.items()}
    num_tokens = BATCH * 197 + int(mask.sum())
    forward_seconds, rates = _forward_limit(model), _rates()
    products = sum(count * (site.width * (site.width + 1)) for site in sites if (count := counts.get(site.key, 0)))
    values = {
        "tokens_per_second": round(num_tokens / statistics.median(walls), 1),
        "wall_seconds": round(statistics.median(walls), 3),
        "cpu_seconds": round(statistics.median(cpus), 3),
        "limit_cpu_seconds": round(forward_seconds / rates["mm"] + products / rates["syrk"], 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **{f"{name}_gflops": round(rate / 1e9, 1) for name, rate in rates.items()},
    }
    print(json.dumps(values))


def _published(model: VLModel, batch: Callable[[Collector], None]) -> tuple[list[float], list[float], dict[str, int]]:
    """G += XᵀX in float64 for the input of every linear slot, padding included."""
    sums: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())

    def hook(name: str) -> Any:
        def add(_: Any, inputs: Any) -> None:
            x = inputs[0].flatten(0, -2).to(torch.float64)
            sums[name] = sums.get(name, 0) + x.T @ x

        return add

    sites = find_sites(model, LAYOUT)
    handles = [modules[site.module].register_forward_pre_hook(hook(site.module)) for site in sites]
    with torch.no_grad():
        walls, cpus = _timed(lambda: batch(Collector([], None, True, ())))  # type: ignore[arg-type]
    for handle in handles:
        handle.remove()
    return walls, cpus, {}


def _timed(call: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of each round, after one that only warms up."""
    walls, cpus = [], []
    for number in range(NUM_ROUNDS + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        if number:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return walls, cpus


def _forward_limit(model: VLModel) -> float:
    """Operations of the blocks' matrix products in one batch through all passes (text of 40 tokens)."""

    def layers(number: int, length: int) -> float:
        width = model.config.width
        return number * (2 * length * 12 * width**2 + 4 * length**2 * width)

    below, top = model.config.fusion_layer, model.config.num_layers - model.config.fusion_layer
    # below once; on top each modality alone, each by vl, and both together
    alone = sum(layers(below, n) + 2 * layers(top, n) for n in (40, 197))
    return BATCH * (alone + layers(top, 237))


def _rates() -> dict[str, float]:
    """Operations a processor second of float32 products of the model's shapes, one thread, the best of some."""
    torch.set_num_threads(1)
    x, w = torch.randn(BATCH * 197, 768), torch.randn(768, 3072)
    wide, out = np.random.default_rng(0).standard_normal((512, 3072), np.float32), np.zeros((3072, 3072), np.float32)

    def best(call: Callable[[], object], rounds: int) -> float:
        found = []
        for _ in range(rounds):
            start = time.process_time()
            call()
            found.append(time.process_time() - start)
        return min(found)

    with one_blas_thread():
        return {
            "mm": 2 * x.shape[0] * x.shape[1] * w.shape[1] / best(lambda: x @ w, 20),
            "syrk": 512 * 3072 * 3073 / best(lambda: syrk(wide, out), 8),
        }


if __name__ == "__main__":
    if sys.argv[1:2] == ["row"]:
        row(sys.argv[2])
    else:
        collect()
