"""A run's folder: who may work in it, where it goes on, and how a model is left there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmerge_cli import console, ranks
from vlmerge_cli.data import provenance
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.errors import TrainingError, UsageError
from vlmerge_cli.outputs import lock
from vlmerge_cli.outputs.replacing import check_folder, check_place
from vlmerge_cli.training import state
from vlmerge_cli.training.parallel import full_state_dict
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.vlmodel import VLModel

#: Settings of the kinds of runs; one of them marks a folder as a run's.
SETTINGS = ("pretrain.yaml", "finetune.yaml", "distill.yaml")
#: All that runs leave in their folder besides; nothing else is ever removed.
OWN = (*SETTINGS, "state", "best", "seed", "start", "tensorboard", "report", "metrics.jsonl", "model.safetensors",
       "config.json", "README.md", "tokenizer.json", "vocab.txt")  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A folder that this run has for itself; ``newest`` is the state it goes on from."""

    path: Path
    config_name: str
    settings: str
    newest: Path | None

    def begin(self) -> None:
        """All inputs are open: what an earlier run left is removed, unless it is gone on with."""
        if ranks.is_main():
            if self.newest is None:
                for name in OWN:
                    _remove(self.path / name)
            (self.path / self.config_name).write_text(self.settings, encoding="utf-8")
        ranks.barrier()


@contextmanager
def opened(
    path: Path, config_name: str, settings: str, resume: bool, force: bool, inputs: Sequence[Path] = ()
) -> Iterator[RunFolder]:
    """The folder of a run, locked while the block runs; nothing in it changes before ``begin``. Every rank comes here.

    ``settings`` are kept in ``config_name``; a run resumes with the same ones only, from its newest state that is
    whole. Raises UsageError for a folder that another process works in, that holds another run or something else, or
    that is or holds an input.
    """
    problem: UsageError | TrainingError | None = None
    if ranks.is_main():
        try:
            _check(path, config_name, settings, resume, force, inputs)
        except (UsageError, TrainingError) as error:
            problem = error
    problem = ranks.gather_objects(problem)[0]
    if problem is not None:
        raise problem
    with lock.alone(path):
        yield RunFolder(path, config_name, settings, _newest(path / "state") if resume else None)


def _check(path: Path, config_name: str, settings: str, resume: bool, force: bool, inputs: Sequence[Path]) -> None:
    stored = path / config_name
    if resume and stored.exists():
        check_place(path)
        if stored.read_text(encoding="utf-8") != settings:
            fix = f"resume with the same settings ({stored} holds them), or start anew with --force"
            raise UsageError(f"{path} holds a run with other settings", fix=fix)
        return
    try:
        check_folder(path, force, SETTINGS, inputs)
    except UsageError as error:
        if stored.exists() and not force and not resume:
            raise error.retold(UsageError, "", f"go on with --resume; {error.fix}") from None
        raise


def _newest(folder: Path) -> Path | None:
    """The newest state that is whole; those that are not are named and left alone."""
    for saved in reversed(state.saved(folder)):
        reason = state.torn(saved)
        if reason is None:
            console.say(f"going on from {saved}")
            return saved
        console.warn(f"{saved} is not whole ({reason}): looking for the state before it")
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def save_model(model: VLModel, folder: Path, about: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """The model as a folder, whatever shards it, with its vocabulary; every rank takes part.

    ``about`` names data and tokenizer as they were given; how they are found again is added.
    """
    values = full_state_dict(model)
    if ranks.is_main():
        noted = {} if "data_at" in about else provenance.noted(provenance.recorded(about), folder)
        stored = {**about, **noted, **vocabulary.noted(tokenizer, about["tokenizer"])}
        model.save_pretrained(folder, about=stored, tokenizer=tokenizer, state_dict=values)
    ranks.barrier()
