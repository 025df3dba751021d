"""RegMean's linear slots of twelve BEiT-base layers with two experts, by vlmerge and by the published inverse.

    python -m benchmarks.solve

Seeded inputs whose columns differ in size, γ 0.9, condition numbers of Σ G̃ up to about 1e5. The published way: the
scaled Grams summed in float64, their explicit inverse, the product. Errors: ‖W - W'‖ / ‖W'‖ between the two ways,
and for each ‖W S - R‖ / ‖R‖ of the equation solved. The limit is arithmetic: the product with a Gram, the Cholesky
factor and its two triangular solves, at the rate of float64 products measured in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.harness import num_runs, save, spread
from benchmarks.limits import matrix_rate
from vlmerge_cli import console, devices
from vlmerge_cli.engine.pool import one_blas_thread
from vlmerge_cli.engine.pool import run as run_in_threads
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.method import Group
from vlmerge_cli.methods.regmean import RegMean

NUM_LAYERS, GAMMA = 12, 0.9
#: qkv, proj, fc1, fc2: (out, in).
SHAPES = ((2304, 768), (768, 768), (3072, 768), (768, 3072))
#: Sizes of an input's columns from 1 down to 10^-decades; the condition number is near 10^(2 decades).
TIMED_DECADES, CHECKED_DECADES = 2.3, (0.5, 1.0, 1.5, 2.0, 2.3)
Matrix = np.ndarray[Any, Any]


def main() -> None:
    check()
    timed()


def check() -> None:
    """How far the two ways are apart at growing condition numbers; one small slot each."""
    values = {}
    for number, decades in enumerate(CHECKED_DECADES):
        of = [group(number, *SHAPES[1], decades)]
        system = _system(of[0])[0].numpy()
        ours, theirs = by_method(of, 1)[0], by_inverse([whole(of[0])])[0]
        values[f"width 768, decades {decades}"] = {
            "condition": float(np.linalg.cond(system)),
            "difference": _relative(ours, theirs),
            "residual": residual(ours, of[0]),
            "published_residual": residual(theirs, of[0]),
        }
        console.say(str(values[f"width 768, decades {decades}"]))
    save("conditions", values, {"gamma": GAMMA})


def timed() -> None:
    layer = [group(10 + number, *shape, TIMED_DECADES) for number, shape in enumerate(SHAPES)]
    threads = devices.num_cpus()
    torch.set_num_threads(threads)
    matrices = [whole(of) for of in layer]
    ways: dict[str, Callable[[int], list[Matrix]]] = {
        "RegMean: Cholesky": lambda layers: by_method(layer * layers, threads),
        "published: torch.inverse": lambda layers: by_inverse(matrices * layers),
    }
    merged = {name: way(1) for name, way in ways.items()}  # warms up
    difference = max(map(_relative, *merged.values()))
    rate = matrix_rate("float64", 3072, threads)
    walls: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_runs(3)):
        for name, way in ways.items():
            started = time.perf_counter()
            way(NUM_LAYERS)
            walls[name].append(round(time.perf_counter() - started, 3))
            console.say(f"{name}: {walls[name][-1]} s")
    rate = max(rate, matrix_rate("float64", 3072, threads))
    operations = NUM_LAYERS * sum(4 * out * width**2 + width**3 / 3 for out, width in SHAPES)
    values = {
        name: {
            **spread(its),
            "difference": difference,
            "residual": max(map(residual, merged[name], layer)),
            "share_of_limit": round(operations / rate / statistics.median(its), 3),
            "matrix_gflops": round(rate / 1e9, 1),
        }
        for name, its in walls.items()
    }
    save("solve", values, {"work": "W4", "num_threads": threads, "gamma": GAMMA, "layers": NUM_LAYERS})


def by_method(groups: Sequence[Group], threads: int) -> list[Matrix]:
    """Slots side by side, as ``vlmerge merge`` takes them."""
    with one_blas_thread():
        return run_in_threads(lambda: RegMean(gamma=GAMMA), groups, threads, lambda _: 1, lambda _: None)


def by_inverse(groups: Sequence[Group]) -> list[Matrix]:
    return [inverted(of).numpy() for of in groups]


def inverted(of: Group) -> torch.Tensor:
    """R S⁻¹ by the explicit inverse, in float64, on the device of the group."""
    system, right = _system(of)
    return right @ torch.inverse(system)


def group(seed: int, rows: int, width: int, decades: float) -> Group:
    """A slot of two experts whose Grams are of random inputs with a mean."""
    draw = torch.Generator().manual_seed(seed)
    weights, grams = {}, {}
    scale = torch.logspace(0, -decades, width, dtype=torch.float64)
    for expert in ("v", "l"):
        x = (torch.randn(width + 1000, width, generator=draw, dtype=torch.float64) + 0.1) * scale
        weights[expert] = torch.randn(rows, width, generator=draw).numpy()
        grams[expert] = linalg.pack((x.T @ x).numpy())
    return Group(Slot(0, f"{rows} by {width}", "linear"), weights, grams=grams)


def whole(of: Group) -> Group:
    """With its Grams as whole matrices, as published; vlmerge takes packed triangles."""
    return replace(of, grams={expert: linalg.unpack(packed) for expert, packed in of.grams.items()})


def _system(of: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """S = Σ G̃ and R = Σ W G̃ in float64, as published."""
    system, right = 0, 0
    for expert, weight in of.experts.items():
        stored = of.grams[expert]
        full = torch.as_tensor(linalg.unpack(stored) if stored.ndim == 1 else stored)
        scaled = GAMMA * full + (1 - GAMMA) * torch.diag(torch.diag(full))
        system = system + scaled
        right = right + torch.as_tensor(weight).double() @ scaled
    return system, right  # type: ignore[return-value]


def residual(weight: Matrix, of: Group) -> float:
    system, right = (matrix.numpy() for matrix in _system(of))
    return _relative(weight @ system, right)


def _relative(found: Matrix, truth: Matrix) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    main()
