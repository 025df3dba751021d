"""What resuming needs, saved so that it is whole or absent: PyTorch's distributed checkpoint in a folder a step.

A state can be loaded by another number of ranks than saved it. What is random is keyed by seed and step, so no
generator's state is part of it.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_state
from torch.optim import Optimizer

from vlmerge_cli import ranks
from vlmerge_cli.errors import TrainingError

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Position:
    """Where a run stands: ``step`` optimiser steps are done in all; ``best`` is the best validation so far.

    ``stale`` counts the validations since then; ``scaler`` is the state of the loss's scale in float16.
    """

    phase: str
    step: int
    best: float | None = None
    stale: int = 0
    scaler: Mapping[str, float] = field(default_factory=dict)


def save(folder: Path, module: nn.Module, optimizer: Optimizer, position: Position, keep: int) -> None:
    """Write folder/step-N, then remove all but the newest ``keep``; every rank takes part."""
    final = folder / f"step-{position.step:08d}"
    temporary = folder / f".{final.name}.partial"
    if ranks.is_main():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
    model_state, optimizer_state = get_state_dict(module, optimizer)
    with _quiet():
        save_state({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=temporary)
    ranks.barrier()
    if ranks.is_main():
        (temporary / "position.json").write_text(json.dumps(asdict(position)) + "\n", encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in saved(folder)[:-keep]:
            shutil.rmtree(old)
    ranks.barrier()


def saved(folder: Path) -> list[Path]:
    """Finished states, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def position_of(state: Path) -> Position:
    """Raises TrainingError for a folder that is not a state."""
    try:
        return Position(**json.loads((state / "position.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"not a saved state: {error}", where=str(state)) from None


def torn(state: Path) -> str | None:
    """Why a saved state is not whole, or None: its position, its index, and all the bytes that the index names."""
    try:
        position_of(state)
        metadata = FileSystemReader(state).read_metadata()
    except TrainingError as error:
        return error.what
    except BaseException as error:  # dcp's own errors are none of Exception; an interrupt is
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return f"no index: {type(error).__name__}"
    ends: dict[str, int] = {}
    for part in (metadata.storage_data or {}).values():
        ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
    for name, end in ends.items():
        size = (state / name).stat().st_size if (state / name).is_file() else -1
        if size < end:
            return f"{name} is missing" if size < 0 else f"{name} has {size} of {end} bytes"
    return None


def restore(state: Path, module: nn.Module, optimizer: Optimizer) -> None:
    """Load weights and optimiser in place. Raises TrainingError when they do not fit the model."""
    model_state, optimizer_state = get_state_dict(module, optimizer)
    values: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    try:
        with _quiet():
            load(values, checkpoint_id=state)
    except BaseException as error:  # dcp raises its own many kinds, some of them no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "resume with the settings the run was started with"
        raise TrainingError(f"the saved state does not fit: {reason}", where=str(state), fix=fix) from error
    set_state_dict(module, optimizer, model_state_dict=values["model"], optim_state_dict=values["optimizer"])


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "assuming the intent is to save in a single process", each time
        yield
