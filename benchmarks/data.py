"""Samples a second of the loader: the built-in data set at 32 px, and 224 px crops of JPEGs in tar shards.

    python -m benchmarks.data            adds rows to benchmarks/results/data.jsonl

Times are of warm runs: the first steps, which start workers and fill file caches, are not counted.
"""

from __future__ import annotations

import io
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vlmerge_cli import records
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import Part, ShapesOptions
from vlmerge_cli.data.sources import DataSet, open_data
from vlmerge_cli.data.tokenizer import load
from vlmerge_cli.data.transforms import LIGHT, PUBLISHED

RESULTS = Path(__file__).parent / "results" / "data.jsonl"
WARM_UP_STEPS, STEPS = 30, 150
NUM_JPEGS, JPEG_SIZE_PX = 600, (640, 480)  # about what COCO has
PARTS: tuple[Part, ...] = ("coco", "shards", "nlvr2", "classes", "ade20k")


def machine() -> dict[str, Any]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), model)
    load_now = round(os.getloadavg()[0], 1)
    return {"cpu": model, "cores": os.cpu_count(), "torch": torch.__version__, "load_before": load_now}


@contextmanager
def jpeg_shards() -> Iterator[Path]:
    """Shards of smooth noise as JPEGs of a photograph's size and bytes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        with tarfile.open(Path(name) / "00000.tar", "w") as tar:
            for number in range(NUM_JPEGS):
                coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
                fine = np.asarray(coarse.resize(JPEG_SIZE_PX, Image.Resampling.BICUBIC)).astype(np.int16)
                noisy = np.clip(fine + rng.integers(-12, 13, fine.shape), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
                for ending, data in (
                    ("jpg", buffer.getvalue()),
                    ("txt", b"a red star above a small blue ring"),
                ):
                    info = tarfile.TarInfo(f"{number:09d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        yield Path(name)


def rate(data: DataSet, form: Form, batch_size: int, num_workers: int, warm_up: int, steps: int) -> float:
    """Samples a second, with nothing done to the batches."""
    loader = Loader(data, form, batch_size, num_workers=num_workers)
    batches = loader.steps(0, warm_up + steps)
    for _ in islice(batches, warm_up):
        pass
    start = time.perf_counter()
    count = sum(len(batch) for batch in batches)
    return count / (time.perf_counter() - start)


def report(kind: str, at: dict[str, Any], **values: float) -> None:
    records.append(RESULTS, records.Record(kind, {**at, **machine()}, {k: round(v, 2) for k, v in values.items()}))
    print(kind, at, values)


def measure_making(image_px: int, variant: Literal["shapes", "digits"]) -> None:
    options = ShapesOptions(variant=variant, image_px=image_px)
    with tempfile.TemporaryDirectory() as name:
        for part in PARTS:
            start, cpu = time.perf_counter(), time.process_time()
            folder(options, part, Path(name))
            at = {"variant": variant, "image_px": image_px, "part": part, "train": options.train}
            report("make", at, seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)


def main() -> None:
    tokenizer = load("bundled", 20)
    measure_making(32, "shapes")
    shapes = open_data(["shapes"], "pairs", "train", BadSamples())
    for workers in (0, 2):
        form = Form(32, tokenizer, LIGHT, mask_ratio=0.25)
        speed = rate(shapes, form, 64, workers, 5 * WARM_UP_STEPS, 3 * STEPS)
        at = {"data": "shapes", "image_px": 32, "augment": "light", "workers": workers, "batch": 64}
        report("loader", at, samples_per_second=speed)
    with jpeg_shards() as root:
        tars = open_data([str(root)], "pairs", "train", BadSamples())
        for workers in (0, 2):
            form = Form(224, tokenizer, PUBLISHED, mask_ratio=0.15)
            speed = rate(tars, form, 32, workers, 8, 32)
            at = {"data": "tar of 640x480 JPEG", "image_px": 224, "augment": "published", "workers": workers}
            report("loader", {**at, "batch": 32}, samples_per_second=speed)


if __name__ == "__main__":
    main()
