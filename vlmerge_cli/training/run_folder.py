"""A run's folder: who may write into it, where it goes on, and how a model is left there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmerge_cli import ranks
from vlmerge_cli.data import recorded
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.errors import TrainingError, UsageError
from vlmerge_cli.training import state
from vlmerge_cli.training.parallel import full_state_dict
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.vlmodel import VLModel


def prepare(folder: Path, config_name: str, settings: str, resume: bool, force: bool) -> Path | None:
    """The newest state to go on from; a new run starts in an empty folder. Every rank comes here.

    ``settings`` are kept in ``config_name``; a run resumes with the same ones only. Raises UsageError.
    """
    newest = next(reversed(state.saved(folder / "state")), None) if resume else None
    problem: UsageError | TrainingError | None = None
    if ranks.is_main():
        stored = folder / config_name
        if resume and stored.exists():
            if stored.read_text(encoding="utf-8") != settings:
                fix = f"resume with the same settings ({stored} holds them), or start anew with --force"
                problem = UsageError(f"{folder} holds a run with other settings", fix=fix)
        elif folder.exists() and any(folder.iterdir()):
            if force:
                shutil.rmtree(folder)
            else:
                fix = "go on with --resume, start anew with --force, or name another --out"
                problem = UsageError(f"{folder} is not empty", fix=fix)
        if problem is None:
            folder.mkdir(parents=True, exist_ok=True)
            stored.write_text(settings, encoding="utf-8")
    problem = ranks.gather_objects(problem)[0]
    if problem is not None:
        raise problem
    return newest


def save_model(model: VLModel, folder: Path, about: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """The model as a folder, whatever shards it, with its vocabulary; every rank takes part.

    ``about`` names data and tokenizer as they were given; how they are found again is added.
    """
    values = full_state_dict(model)
    if ranks.is_main():
        noted = {} if "data_at" in about else recorded.noted(recorded.recorded(about), folder)
        stored = {**about, **noted, **vocabulary.noted(tokenizer, about["tokenizer"])}
        model.save_pretrained(folder, about=stored, tokenizer=tokenizer, state_dict=values)
    ranks.barrier()
