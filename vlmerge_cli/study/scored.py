"""How a merged checkpoint is scored: as it is, or after some steps of fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmerge_cli.errors import UsageError
from vlmerge_cli.study.digests import of_data
from vlmerge_cli.study.sweep import Scored
from vlmerge_cli.tasks.task import measure
from vlmerge_cli.training.finetune import Run, finetune
from vlmerge_cli.training.finetune_config import load
from vlmerge_cli.training.scoring import Question, named_data, score, shapes_of
from vlmerge_cli.training.start import look


def scored(
    checkpoint: str, task: str, data: tuple[str, ...], split: str, max_samples: int, steps: int, sets: Sequence[str],
    folder: Path, device: str = "cpu",
) -> Scored:  # fmt: skip
    """Scores of ``task`` on ``split``; with ``steps`` the last model of so long a fine-tuning in ``folder`` is scored.

    Without ``data`` that is what ``checkpoint`` was trained on. Raises UsageError for settings without fine-tuning.
    """
    asked, start = measure(task), look(checkpoint)
    question = Question(task, start.data(data), split, max_samples=max_samples)
    data, shapes = question.data, shapes_of(question, start)
    if sets and not steps:
        raise UsageError("--set belongs to --finetune", fix="--finetune STEPS")

    def of(path: str) -> Mapping[str, float]:
        place = path
        if steps:
            given = {"task": task, "checkpoint": path, "data": list(data), "steps": steps}
            run = Run(load(look(path), None, given, sets), folder / ".run", device)
            place = str(finetune(run, force=True))
        try:
            return score(place, question, device).scores.values
        finally:
            shutil.rmtree(folder / ".run", ignore_errors=True)

    about = {
        "task": task, "data": list(named_data(data, shapes)), "data_digest": of_data(data, shapes), "split": split,
        "max_samples": max_samples, "finetune_steps": steps, "settings": list(sets),
    }  # fmt: skip
    return Scored(about, asked.main, of)
