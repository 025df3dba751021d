"""Records typed by hand, so that what a page says of them can be computed by hand."""

from __future__ import annotations

from typing import Any

from vlmerge_cli.records import Record

VALUE = {"retrieval": "mean_recall", "vqa": "accuracy", "itm": "accuracy", "nlvr2": "accuracy",
         "classification": "top1", "segmentation": "miou"}  # fmt: skip


def interpolation(alpha: float, **more: Any) -> dict[str, Any]:
    return {"method": "interpolation", "settings": {"alpha": alpha, "vl-ratio": 1 / 3, "weigh": "tokens", **more}}


def arithmetic(lam: float, **more: Any) -> dict[str, Any]:
    return {"method": "arithmetic", "settings": {"lambda": lam, "sequential": False, **more}}


def regmean(gamma: float) -> dict[str, Any]:
    return {"method": "regmean", "settings": {"gamma": gamma, "ridge": 0.0, "weigh": "tokens"}}


def score(
    value: float, task: str = "retrieval", k_seed: float = 0.0, merge: dict[str, Any] | None = None, seed: int = 1,
    arch: str = "specific", width: int = 64, steps: int | None = None, split: str = "test", order: str = "before",
    finetune_seed: int = 1, num_samples: int = 1000,
) -> Record:  # fmt: skip
    """Fine-tuned unless ``steps`` is 0 or the task is itm."""
    steps = (0 if task == "itm" else 50) if steps is None else steps
    at = {
        "seed": seed, "width": width, "arch": arch, "k_seed": k_seed, "merge": merge, "task": task, "split": split,
        "order": order if merge else None, "finetune_steps": steps, "finetune_seed": finetune_seed if steps else 0,
    }  # fmt: skip
    values = {VALUE[task]: value, "num_samples": num_samples}
    if task == "retrieval":
        values |= {"tr_mean": value + 1.0, "ir_mean": value - 1.0}
    return Record("score", at, values)


def distance(tssd: float, k_seed: float, seed: int = 1, where: str = "all", **more: float) -> Record:
    at = {"seed": seed, "width": 64, "arch": "specific", "k_seed": k_seed, "pair": "v,l", "where": where}
    return Record("distance", at, {"l2": 10.0, "cosine": 0.1, "ssd": 0.1, "tssd": tssd, "num_weights": 8, **more})
