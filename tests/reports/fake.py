"""Made records of a study: plausible numbers from a seed, in the form that ``vlmerge study`` writes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmerge_cli import records
from vlmerge_cli.records import Record

PHASES = (0.0, 0.25, 0.5, 0.75)
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "interpolation": {"vl-ratio": 1 / 3, "auto-by": "model"},
    "arithmetic": {"sequential": False},
    "regmean": {"ridge": 0.0, "weigh": "tokens"},
}
FLAG = {"interpolation": "alpha", "arithmetic": "lambda", "regmean": "gamma"}
STEPS = {"retrieval": 50, "vqa": 300, "nlvr2": 300, "classification": 200, "segmentation": 200}
# Zero-shot retrieval lost at alpha .5, by seed phase.
LOST = {0.0: 29.0, 0.25: 16.0, 0.5: 8.0, 0.75: 3.0}
# Relative to alpha .5 after half of the steps: zero-shot retrieval, retrieval, VQA.
CURVES = {
    "interpolation": ((-13.7, -4.1, -10.0), (-5.3, -1.5, -4.0), (0, 0, 0), (0.6, 1.1, 3.0), (-2.5, 0.3, 3.5)),
    "arithmetic": ((-3.6, -2.8, 2.0), (-1.8, -1.0, 1.0), (-1.8, 0.4, -1.0), (-3.7, 1.3, 0.0), (-6.9, 1.0, -4.0)),
    "regmean": ((-1.1, 0.4, 2.0), (-0.5, 0.4, 2.2), (0.2, 0.5, 2.0), (1.2, 0.5, 3.0), (2.3, 0.6, 2.2)),
}
SHARED = {"specific": 1.0, "custom-attn": 0.7, "custom-ffn": 0.33, "custom-ln": 0.05, "agnostic": 0.0}
COSTS = {"seed phase": 40.0, "pre-training": 95.0, "merge": 0.4, "score": 6.0, "fine-tuning": 14.0, "distances": 0.3}


@dataclass(frozen=True)
class Model:
    seed: int
    width: int
    arch: str
    k_seed: float

    @property
    def at(self) -> dict[str, Any]:
        return {"seed": self.seed, "width": self.width, "arch": self.arch, "k_seed": self.k_seed}


def noise(scale: float, *about: object) -> float:
    """The same for the same words, whatever else is made."""
    return float(np.random.default_rng(zlib.crc32(repr(about).encode())).normal(0, scale))


def study(seeds: tuple[int, ...] = (1, 2, 3), widths: tuple[int, ...] = (64, 32), full: bool = True) -> list[Record]:
    """All records but the costs."""
    values = {
        "seeds": list(seeds), "steps": 1000, "batch_size": 32, "widths": list(widths), "k_seed": list(PHASES),
        "train_images": 8000, "val_images": 500, "test_images": 1000, "finetune_steps": STEPS, "num_layers": 4,
        "fusion_layer": 2, "recipe_k_seed": 0.5,
    }  # fmt: skip
    found = [Record("study", {"preset": "full" if full else "quick"}, values)]
    for seed in seeds:
        for width in widths:
            for arch in SHARED if width == widths[0] else ("specific", "agnostic"):
                for k in PHASES if arch == "specific" else (0.0,) if arch == "agnostic" else (0.5,):
                    found += model_records(Model(seed, width, arch, k), width == widths[0], full)
    return found


def costs(found: list[Record]) -> list[Record]:
    machine = {"cpu": "A made processor", "num_cpus": 2, "memory_gb": 25, "python": "3.11", "torch": "2.13.0",
               "date": "2026-11-25", "workers": 2, "vlmerge": "0.1.0", "commit": "1a2b3c4",
               "command": "vlmerge study --preset quick"}  # fmt: skip
    return [
        Record("cost", {"node": f"seed{n}/{kind}", "kind": kind, **machine}, {"seconds": seconds})
        for kind, seconds in COSTS.items()
        for n in range(8)
    ]


def write(folder: Path, found: list[Record], spent: list[Record] | None = None) -> Path:
    for name, rows in (("records.jsonl", found), ("costs.jsonl", spent or [])):
        for row in rows:
            records.append(folder / name, row)
    return folder


def model_records(model: Model, is_main: bool, full: bool) -> Iterator[Record]:
    yield from curves(model)
    if model.arch == "specific":
        yield from distances(model)
    merges: list[tuple[str, float] | None] = [None]
    if model.arch != "agnostic":
        merges.append(("interpolation", 0.5))
    if is_main and model.arch == "specific" and model.k_seed == 0.5:
        merges = [None, *((method, value) for method in FLAG for value in GRID)]
    for merge in merges:
        for split in ("val", "test"):
            yield from zero_shot(model, merge, split)
            if full:
                yield from finetuned(model, merge, split, "before")
    if full and is_main and model.arch == "specific" and model.k_seed in (0.0, 0.5):
        yield from finetuned(model, ("interpolation", 0.5), "test", "after")
    table_3 = model.arch == "agnostic" or (model.arch == "specific" and model.k_seed in (0.0, 0.5))
    if full and is_main and table_3:
        yield from more_tasks(model)


def level(model: Model, merge: tuple[str, float] | None, curve: int) -> tuple[float, float]:
    """Score before merging and points lost, of ``curve``: 0 zero-shot retrieval, 1 fine-tuned, 2 VQA."""
    start = (41.0, 40.5, 56.0)[curve] - 2.0 * model.k_seed - (1.5 if model.arch == "agnostic" else 0.0)
    start -= 6.0 if model.width == 32 else 0.0
    start += noise(0.6, model, curve)
    if merge is None:
        return start, 0.0
    share = (1.0, 0.3, 0.2)[curve] * SHARED[model.arch] * (1.25 if model.width == 32 else 1.0)
    lost = LOST[model.k_seed] * share
    place = GRID.index(merge[1])
    return start, lost - CURVES[merge[0]][place][curve] + noise(0.5, model, merge, curve)


def zero_shot(model: Model, merge: tuple[str, float] | None, split: str) -> Iterator[Record]:
    start, lost = level(model, merge, 0)
    at = {**model.at, "merge": described(merge), "order": "before" if merge else None, "finetune_steps": 0,
          "finetune_seed": 0, "split": split}  # fmt: skip
    yield Record("score", {**at, "task": "retrieval"}, recalls(start - lost + noise(0.3, at), 4000))
    accuracy = max(50.0, 95.0 - 1.5 * max(lost, 0.0))
    yield Record("score", {**at, "task": "itm"}, {"accuracy": accuracy + noise(0.3, at, 1), "num_samples": 2000})


def finetuned(model: Model, merge: tuple[str, float] | None, split: str, order: str) -> Iterator[Record]:
    for curve, task in ((1, "retrieval"), (2, "vqa")):
        start, lost = level(model, merge, curve)
        lost += 12.0 if order == "after" else 0.0
        for number in (1, 2) if task == "vqa" else (1,):
            at = {**model.at, "merge": described(merge), "order": order if merge else None, "task": task,
                  "finetune_steps": STEPS[task], "finetune_seed": number, "split": split}  # fmt: skip
            score = start - lost + noise(0.7 if task == "vqa" else 0.3, at)
            values = recalls(score, 4000) if task == "retrieval" else {"accuracy": score, "num_samples": 4000}
            yield Record("score", at, values)


def more_tasks(model: Model) -> Iterator[Record]:
    merges: tuple[tuple[str, float] | None, ...] = (
        (None,) if model.arch == "agnostic" else (None, ("interpolation", 0.5))
    )
    if model.k_seed == 0.5:
        merges = (("interpolation", 0.5), ("interpolation", 0.75))
    for task, value, height, hurt in (
        ("nlvr2", "accuracy", 66.0, 0.4), ("classification", "top1", 88.0, 0.02), ("segmentation", "miou", 61.0, 0.05),
    ):  # fmt: skip
        for merge in merges:
            for split in ("val", "test"):
                lost = hurt * LOST[model.k_seed] if merge else 0.0
                at = {**model.at, "merge": described(merge), "order": "before" if merge else None, "task": task,
                      "finetune_steps": STEPS[task], "finetune_seed": 1, "split": split}  # fmt: skip
                yield Record("score", at, {value: height - lost + noise(0.8, at), "num_samples": 1000})


def distances(model: Model) -> Iterator[Record]:
    share = (1.0, 0.75, 0.54, 0.34)[PHASES.index(model.k_seed)] * (0.7 if model.width == 32 else 1.0)
    for place in ("all", "layers.0", "layers.1", "layers.2", "layers.3"):
        rise = 1.0 if place == "all" else 0.6 + 0.2 * int(place[-1])
        near = share * rise * (1 + noise(0.03, model, place))
        values = {"l2": 20.4 * near * (1 if place == "all" else 0.5), "cosine": 0.173 * near**2, "ssd": 0.122 * near,
                  "tssd": 0.0151 * near**5, "num_weights": 200_000 if place == "all" else 50_000}  # fmt: skip
        yield Record("distance", {**model.at, "pair": "v,l", "where": place}, values)


def curves(model: Model) -> Iterator[Record]:
    first, last = int(1000 * model.k_seed), 1000
    stages = [("pretrain", model.arch, first, last)]
    if model.arch == "specific" and model.k_seed:
        stages.insert(0, ("seed", "agnostic", 0, first))
    for stage, arch, start, end in stages:
        for step in range(start + 50, end + 1, 50):
            falls = np.exp(-step / 400)
            values = {"itc": 1.5 + 2.6 * falls, "itm": 0.3 + 0.35 * falls, "mlm": 1.1 + 2.5 * falls}
            values = {name: float(value) + noise(0.02, model, name, step) for name, value in values.items()}
            at = {**model.at, "arch": arch, "stage": stage, "part": "validation", "step": step}
            yield Record("curve", at, {**values, "loss": sum(values.values())})


def described(merge: tuple[str, float] | None) -> dict[str, Any] | None:
    return None if merge is None else {"method": merge[0], "settings": {FLAG[merge[0]]: merge[1], **SETTINGS[merge[0]]}}


def recalls(mean: float, num: int) -> dict[str, float]:
    return {"tr_mean": mean + 2.0, "ir_mean": mean - 2.0, "mean_recall": mean, "num_samples": num}
