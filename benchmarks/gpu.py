"""W1 to W4 on a GPU, beside the CPU in the same run; nothing where there is none.

    python -m benchmarks.gpu

Merges and distances are whole processes, as a user starts them, and once more inside one that has PyTorch and the
device ready ("warm"); Grams and their solutions are timed inside one, from arrays that are on the device. The limit of
a merge is copying its bytes to the device and back through pinned memory, of a distance copying them there, of the
others their multiply-adds, at the best rates seen in the same run; merges also stand beside reading and then writing
their files with four threads. Apart: how far the results are from the CPU's, relative to the largest entry of each
tensor (merges), or to the norm.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import distance, harness, inputs, limits, solve, sums
from benchmarks.harness import VLMERGE, Command, compare, num_runs, remove, save, spread, time_process
from vlmerge_cli import console, devices
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.distances.measure import measure as measure_distances
from vlmerge_cli.engine.arrays import NumpyArrays
from vlmerge_cli.grams.sums import TorchSums
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.merging import merge
from vlmerge_cli.merging.opening import Inputs, prepared
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.method import Group, make
from vlmerge_cli.methods.regmean import RegMean

COPY_BYTES, WIDTH = 1 << 30, 8192
WORKS = ("W1", "W2", "W3", "W4")
RATES = {
    "there": "copy from pinned memory",
    "back": "copy to pinned memory",
    "within": "copy within the GPU, bytes read and written",
    "read": "read a warm file, four threads",
    "write": "write a new file, four threads",
    **{name: f"multiply {name} matrices of {WIDTH}" for name in ("bfloat16", "float32", "float64")},
}
Values = dict[str, Any]


@dataclass(frozen=True)
class Rates:
    """Bytes a second to a device and back (pinned memory), within it, and of files; operations a second of products."""

    there: float
    back: float
    within: float
    read: float
    write: float
    bfloat16: float
    float32: float
    float64: float


def main(words: list[str]) -> None:
    """``inputs`` only makes the inputs; ``rehearse`` takes the CPU where there is no GPU, and small sizes.

    Works, such as ``W3 W4``: only those.
    """
    on_gpu = devices.has_gpu() and torch.cuda.is_available()
    if not on_gpu and "rehearse" not in words:
        console.say("no GPU here: nothing to measure")
        return
    sources = {"W1": inputs.base, "W2": lambda: inputs.grown(8)} if on_gpu else dict.fromkeys(("W1", "W2"), inputs.tiny)
    works = [work for work in WORKS if work in words] or list(WORKS)
    if "inputs" in words:
        for make_input in sources.values():
            make_input()
    else:
        measure("cuda:0" if on_gpu else "cpu", sources, works)


def measure(device: str, sources: Mapping[str, Callable[[], Path]], works: Sequence[str] = WORKS) -> None:
    rates = rates_of(device, sources["W1"]())
    keep_rates(rates, device)
    for work in works:
        if work in sources:
            merges(work, sources[work](), device, rates)
        elif work == "W3":
            distances(sources["W1"](), device, rates)
        else:
            grams(device, rates)
            solutions(device, rates)


def rates_of(device: str, source: Path) -> Rates:
    small = device == "cpu"
    copied, width = (COPY_BYTES >> 6, WIDTH >> 4) if small else (COPY_BYTES, WIDTH)
    host = torch.ones(copied, dtype=torch.uint8, pin_memory=device != "cpu")
    there = torch.empty_like(host, device=device)

    def products(dtype: torch.dtype) -> float:
        a, b = (torch.randn(width, width, dtype=dtype, device=device) for _ in range(2))
        return 2 * width**3 / min(turns(lambda: torch.mm(a, b), device))

    return Rates(
        copied / min(turns(lambda: there.copy_(host, non_blocking=True), device)),
        copied / min(turns(lambda: host.copy_(there, non_blocking=True), device)),
        2 * copied / min(turns(there.clone, device)),
        limits.read_rate(source, 4),
        limits.write_rate(4),
        products(torch.bfloat16),
        products(torch.float32),
        products(torch.float64),
    )


def keep_rates(rates: Rates, device: str) -> None:
    units = {name: "TFLOP/s" if "float" in name else "GB/s" for name in vars(rates)}
    rows = {
        RATES[name]: {"rate": round(rate / (1e9 if units[name] == "GB/s" else 1e12), 1), "unit": units[name]}
        for name, rate in vars(rates).items()
    }
    console.say(str(rows))
    save("gpu-rates", rows, {"gpu": gpu_of(device)})


def turns(call: Callable[[], Any], device: str, runs: int = 5) -> list[float]:
    """Wall seconds of several calls, each until the device is done, after one that warms up."""

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    found = []
    for _ in range(num_runs(runs) + 1):
        wait()
        started = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - started)
    return found[1:]


def merges(work: str, source: Path, device: str, rates: Rates) -> None:
    outputs = harness.WORK / "out-gpu", harness.WORK / "out-cpu"
    commands = {
        name: Command([*VLMERGE, "merge", str(source), "-o", str(to), "--no-sync", "--device", where], (source,), to)
        for name, where, to in zip(("merge, GPU", "merge, CPU"), (device, "cpu"), outputs, strict=True)
    }
    rows = compare(work, commands, runs=3)
    warm = spread(warm_turns(lambda: merged(source, outputs[0], device), outputs[0]))
    for command in commands.values():  # once more, for an output that stays
        time_process(replace(command, output=None))
    apart = largest_difference(*outputs)
    for output in outputs:
        remove(output)
    first = next(iter(rows.values()))
    limit = first.bytes_in / rates.there + first.runs[-1].bytes_out / rates.back
    found = {**{name: row.values() for name, row in rows.items()}, "merge, GPU, warm": warm}
    files = first.bytes_in / rates.read + first.runs[-1].bytes_out / rates.write
    for values in found.values():
        values["share_of_files"] = round(files / values["wall_seconds"], 4)
    keep(work, found, limit, apart, device)


def merged(source: Path, output: Path, device: str) -> None:
    with prepared(Inputs(str(source)), make("interpolation", {}), Request()) as ready:
        merge.run(ready, Target(output, sync=False), merge.Settings(device), lambda _: None)


def warm_turns(call: Callable[[], object], output: Path | None = None) -> list[float]:
    """Wall seconds of some turns in this process after one that warms up; what they write is removed."""
    found = []
    for _ in range(num_runs(3) + 1):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
        console.say(f"in one process: {found[-1]:.3f} s")
        remove(output)
    return found[1:]


def largest_difference(one: Path, other: Path) -> float:
    """Of two checkpoints of the same keys: the largest of max |a - b| / max |b| over the tensors."""
    arrays, largest = NumpyArrays(), 0.0
    with open_checkpoint(one) as a, open_checkpoint(other) as b:
        assert a.tensors.keys() == b.tensors.keys()
        for key, tensor in b.tensors.items():
            x, y = (arrays.load(name, of, key, 0, tensor.num_elements, "float64") for name, of in (("a", a), ("b", b)))
            if (most := np.abs(y).max(initial=0)) > 0:
                largest = max(largest, float(np.abs(x - y).max() / most))
    return largest


def distances(source: Path, device: str, rates: Rates) -> None:
    commands = {
        name: Command([*VLMERGE, "distance", str(source), "--json", "--device", where], (source,))
        for name, where in (("distance, GPU", device), ("distance, CPU", "cpu"))
    }
    rows = compare("W3", commands, runs=3)
    found, wanted = map(distance.said, rows.values())
    apart = max(abs(found[name] - wanted[name]) / abs(wanted[name]) for name in distance.NAMES)
    with open_checkpoint(source) as opened:
        survey, _ = find(opened.tensors, None, str(source))
        warm = spread(warm_turns(lambda: measure_distances(opened, survey, ("v", "l"), threads=4, device=device)))
        num_bytes = sum(
            opened.tensors[keys[expert]].num_bytes for keys in survey.groups.values() for expert in ("v", "l")
        )
    limit = num_bytes / rates.there
    found = {name: row.values() for name, row in rows.items()}
    keep("W3", {**found, "distance, GPU, warm": warm}, limit, apart, device)


def grams(device: str, rates: Rates) -> None:
    """Running sums of one layer's inputs, beside the published way."""
    num_tokens = sums.NUM_TOKENS >> (4 if device == "cpu" else 0)
    given = {key: x[:num_tokens] for key, x in sums.activations().items()}
    there = {key: x.to(device) for key, x in given.items()}
    ours, published = TorchSums(sums.WIDTHS, torch.device(device), "float32"), sums.Published()

    def add() -> None:
        for key, x in there.items():
            ours.add(key, x)
        ours.flush()

    walls = {"running sums": turns(add, device), "published way": turns(lambda: published.add(there), device)}
    num_batches = num_runs(5) + 1
    apart = max(
        sums.error(linalg.unpack(ours.triangle(key)), num_batches * (x.double().T @ x.double()).numpy())
        for key, x in given.items()
    )
    operations = num_tokens * sum(width * (width + 1) for width in sums.WIDTHS.values())
    keep(
        "W4, Grams",
        {name: spread(its) for name, its in walls.items()},
        operations / max(rates.float32, rates.float64),
        apart,
        device,
    )


def solutions(device: str, rates: Rates) -> None:
    """The linear slots of one layer with two experts, by RegMean and by the published inverse."""
    shapes = solve.SHAPES[1:2] if device == "cpu" else solve.SHAPES
    layer = [solve.group(10 + number, *shape, solve.TIMED_DECADES) for number, shape in enumerate(shapes)]
    there, method = [moved(of, device) for of in layer], RegMean(gamma=solve.GAMMA)
    walls = {
        "RegMean: Cholesky": turns(lambda: [method(of) for of in there], device),
        "published: torch.inverse": turns(lambda: [solve.inverted(of) for of in there], device),
    }
    apart = max(sums.error(method(one).cpu().numpy(), method(other)) for one, other in zip(there, layer, strict=True))
    operations = sum(4 * out * width**2 + width**3 / 3 for out, width in shapes)
    keep("W4, solve", {name: spread(its) for name, its in walls.items()}, operations / rates.float64, apart, device)


def moved(of: Group, device: str) -> Group:
    experts, stored = (
        {expert: torch.from_numpy(array).to(device) for expert, array in arrays.items()}
        for arrays in (of.experts, of.grams)
    )
    return Group(of.slot, experts, grams=stored)


def keep(work: str, rows: Mapping[str, Values], limit: float, apart: float, device: str) -> None:
    """Save all rows of a work with their share of the limit (seconds)."""
    values = {
        name: {**its, "share_of_limit": round(limit / its["wall_seconds"], 4), "apart": apart}
        for name, its in rows.items()
    }
    for name, its in values.items():
        console.say(f"{work}: {name} {its['wall_seconds']:.4f} s, {its['share_of_limit']:.1%} of the limit")
    save("gpu", values, {"work": work, "gpu": gpu_of(device)})


def gpu_of(device: str) -> str:
    return "none" if device == "cpu" else torch.cuda.get_device_name(device)


if __name__ == "__main__":
    main(sys.argv[1:])
