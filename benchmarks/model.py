"""Forward and training-step speed of ``base`` at 224 px, as a share of this machine's rate for matrix products.

    python -m benchmarks.model

Beside it: an equivalent ViT of the transformers package (same width, depth, heads, patches) on the same images.
Its environment is one of its own ($VLMERGE_PEERS, see README.md) with ``pip install transformers``; without it
its rows are left out. One thread, its processor time, and the best of several turns, A B A B ...: what other
programs take from the machine then matters least.

The share is the operations of the matrix products (2 per multiply-add, forward; three times that for a step) over
the time, divided by the best rate of a float32 product of the model's own shapes, measured beside each row.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import PEERS, RESULTS, machine
from vlmerge_cli import console, records
from vlmerge_cli.records import Record

BATCH, NUM_ROUNDS = 4, 3
WIDTH, LAYERS, HEADS, PX, PATCH = 768, 12, 12, 224, 16
NUM_IMAGE, NUM_TEXT = (PX // PATCH) ** 2 + 1, 40


def num_operations(layers_by_length: dict[int, int]) -> int:
    """Of the blocks for one sample: ``layers_by_length`` maps a sequence length to how many layers see it."""
    return sum(
        layers * (2 * length * 12 * WIDTH**2 + 4 * length**2 * WIDTH) for length, layers in layers_by_length.items()
    )


IMAGE_OPERATIONS = num_operations({NUM_IMAGE: LAYERS}) + 2 * (NUM_IMAGE - 1) * 3 * PATCH**2 * WIDTH
JOINT_OPERATIONS = num_operations({NUM_IMAGE: 10, NUM_TEXT: 10, NUM_IMAGE + NUM_TEXT: 2})


def matrix_rate() -> float:
    """Operations a second of (B·197, 768) @ (768, 3072), float32, the best of some."""
    x, w = torch.randn(BATCH * NUM_IMAGE, WIDTH), torch.randn(WIDTH, 4 * WIDTH)
    best = min(seconds(lambda: x @ w) for _ in range(20))
    return 2 * x.shape[0] * x.shape[1] * w.shape[1] / best


def seconds(call: Callable[[], object]) -> float:
    """Processor time of this process, which has one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def step(forward: Callable[[], torch.Tensor], parameters: list[torch.nn.Parameter]) -> None:
    """Forward, backward and a plain update."""
    forward().square().mean().backward()
    with torch.no_grad():
        torch._foreach_add_([p for p in parameters if p.grad is not None],
                            [p.grad for p in parameters if p.grad is not None], alpha=-1e-6)  # fmt: skip
    for parameter in parameters:
        parameter.grad = None


def ours() -> Iterator[tuple[str, Callable[[], object], int]]:
    """(row, what to time, operations for one sample)."""
    from vlmerge_cli.model.config import preset
    from vlmerge_cli.weights.vlmodel import VLModel

    torch.manual_seed(0)
    image = torch.randn(BATCH, 3, PX, PX)
    ids, mask = torch.randint(1, 30522, (BATCH, NUM_TEXT)), torch.ones(BATCH, NUM_TEXT, dtype=torch.bool)
    model = VLModel(preset("base", drop_path=0.0, dropout=0.0))  # sharing changes memory, not the work of a pass
    parameters = list(model.parameters())
    passes: dict[str, tuple[Callable[[], torch.Tensor], int]] = {
        "image": (lambda: model.alone(model.image(image)), IMAGE_OPERATIONS),
        "image and text": (lambda: model.joint(ids, mask, image).image, JOINT_OPERATIONS),
    }
    for name, (forward, operations) in passes.items():
        yield f"vlmerge, {name}, forward", _without_gradient(forward), operations
        yield f"vlmerge, {name}, step", _stepping(forward, parameters), 3 * operations


def peer() -> Iterator[tuple[str, Callable[[], object], int]]:
    from transformers import ViTConfig, ViTModel  # type: ignore[import-not-found]

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        image_size=PX, patch_size=PATCH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False)
    image = torch.randn(BATCH, 3, PX, PX)
    forward = lambda: model(pixel_values=image).last_hidden_state  # noqa: E731
    yield "transformers ViT, image, forward", _without_gradient(forward), IMAGE_OPERATIONS
    yield "transformers ViT, image, step", _stepping(forward, list(model.parameters())), 3 * IMAGE_OPERATIONS


def _without_gradient(forward: Callable[[], torch.Tensor]) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return forward()

    return call


def _stepping(forward: Callable[[], torch.Tensor], parameters: list[torch.nn.Parameter]) -> Callable[[], object]:
    return lambda: step(forward, parameters)


def measure(rows: Iterator[tuple[str, Callable[[], object], int]]) -> list[dict[str, Any]]:
    """One round: each row twice, after a run that warms it up and between two looks at the matrix rate."""
    torch.set_num_threads(1)
    found = []
    for row, call, operations in rows:
        call()
        rate = matrix_rate()
        took = min(seconds(call), seconds(call))
        rate = max(rate, matrix_rate())
        found.append({"row": row, "seconds": took, "rate": rate, "operations": operations * BATCH})
    return found


def main() -> None:
    """All rows in turns, each side in a process of its own; the best of the rounds goes to results/model.jsonl."""
    sides = {"ours": sys.executable, "peer": str(PEERS / "python")}
    if not any((PEERS.parent / "lib").glob("python*/site-packages/transformers")):
        console.say("no transformers in $VLMERGE_PEERS: its rows are left out")
        del sides["peer"]
    rounds: dict[str, list[dict[str, Any]]] = {}
    for number in range(NUM_ROUNDS):
        for side, python in sides.items():
            command = [python, "-m", "benchmarks.model", side]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
            for found in json.loads(done.stdout.splitlines()[-1]):
                rounds.setdefault(found["row"], []).append(found)
                console.say(f"round {number + 1}: {found['row']} {found['seconds']:.3f} s")
    rate = max(one["rate"] for found in rounds.values() for one in found)
    for row, found in rounds.items():
        took = [one["seconds"] for one in found]
        values = {
            "cpu_seconds": round(min(took), 4),
            "cpu_seconds_median": round(statistics.median(took), 4),
            "cpu_seconds_high": round(max(took), 4),
            "samples_per_second": round(BATCH / min(took), 2),
            "share_of_matrix_rate": round(found[0]["operations"] / min(took) / rate, 3),
            "matrix_gflops": round(rate / 1e9, 1),
        }
        facts = {"row": row, "batch": BATCH, "num_rounds": NUM_ROUNDS, "num_threads": 1, "torch": torch.__version__}
        facts |= machine()
        records.append(RESULTS / "model.jsonl", Record("model", facts, values))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure({"ours": ours, "peer": peer}[sys.argv[1]]())))
    else:
        main()
