"""What a merge needs of data: Grams that are missing, or pairs that a method which runs the model is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmerge_cli.errors import UsageError
from vlmerge_cli.merging.opening import Prepared, completed
from vlmerge_cli.methods import RUNNING

FITTED_ON = 512  # pairs


def sources_of(ready: Prepared, data: Sequence[str], num_examples: int | None) -> tuple[str, ...]:
    """The data that a method which runs the model is fitted on; none for the others. Raises UsageError."""
    if ready.plan.method.name not in RUNNING:
        if data or num_examples is not None:
            raise UsageError(f"--data and --examples belong to {', '.join(RUNNING)}, not to {ready.plan.method.name}")
        return ()
    from vlmerge_cli.grams.gram_file import recorded_data

    found = tuple(data) or recorded_data(ready.checkpoint)
    if not found:
        raise UsageError("no --data, and the checkpoint does not say what it was trained on", fix="--data SOURCE")
    return found


def with_data(
    ready: Prepared, output: Path, sources: tuple[str, ...], num_examples: int | None, device: str
) -> Prepared:
    """The merge with its missing Grams collected, or fitted on ``sources``. Raises what those raise."""
    if not sources:
        return completed([ready], device)[0]
    from vlmerge_cli.grams.from_data import Choices
    from vlmerge_cli.layerwise.fitted import fitted

    return fitted(ready, output, Choices(sources, num_examples=num_examples or FITTED_ON, device=device))
