"""How scores, metrics and shares are named and written for people, and which score of a task counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: The score that a task's models are chosen by: ``main`` of the task, known here without torch.
MAIN = {
    "retrieval": "mean_recall", "flickr30k": "mean_recall", "vqa": "accuracy", "nlvr2": "accuracy", "itm": "accuracy",
    "classification": "top1", "segmentation": "miou",
}  # fmt: skip
_WORDS = {
    "mean_recall": "mean of TR and IR", "tr_mean": "TR", "ir_mean": "IR", "miou": "mIOU", "top1": "top-1",
    "top5": "top-5", "itm": "ITM", "itc": "ITC", "mlm": "MLM", "vqa": "VQA", "nlvr2": "NLVR²", "lr": "learning rate",
}  # fmt: skip


def main_score(task: str, values: Mapping[str, Any]) -> str:
    """The name of the score that counts; the first there is for a task without one."""
    return MAIN[task] if MAIN.get(task) in values else next(iter(values))


def words(name: str) -> str:
    """A score's name as people write it: ``tr_1`` is ``TR@1``."""
    if name in _WORDS:
        return _WORDS[name]
    if name[:3] in ("tr_", "ir_"):
        return f"{name[:2].upper()}@{name[3:]}"
    return " ".join(_WORDS.get(part, part) for part in name.split("_"))


def percent(share: float) -> str:
    """A share as people write it: ``50 %``."""
    return f"{100 * share:g} %"


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts ``layers.10`` behind ``layers.9``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]
