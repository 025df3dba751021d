"""vlmerge: merge the transformers of a vision-language checkpoint into one.

Names are loaded when they are looked at, so that importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlmerge_cli.version import __version__ as __version__

if TYPE_CHECKING:
    from vlmerge_cli.api import collect_grams, convert, distance, doctor, inspect, merge, merge_tensors, plan
    from vlmerge_cli.errors import (
        CheckpointError,
        DataError,
        GateError,
        LayoutError,
        MergeError,
        PlanError,
        TrainingError,
        UsageError,
        VlmergeError,
    )
    from vlmerge_cli.inference.loaded import load

#: Public name -> module it is in.
_PLACES = {
    **dict.fromkeys(
        ("collect_grams", "convert", "distance", "doctor", "inspect", "merge", "merge_tensors", "plan"),
        "vlmerge_cli.api",
    ),
    "load": "vlmerge_cli.inference.loaded",
    **dict.fromkeys(
        (
            "CheckpointError", "DataError", "GateError", "LayoutError", "MergeError", "PlanError", "TrainingError",
            "UsageError", "VlmergeError",
        ),
        "vlmerge_cli.errors",
    ),
}  # fmt: skip

__all__ = [
    "CheckpointError",
    "DataError",
    "GateError",
    "LayoutError",
    "MergeError",
    "PlanError",
    "TrainingError",
    "UsageError",
    "VlmergeError",
    "collect_grams",
    "convert",
    "distance",
    "doctor",
    "inspect",
    "load",
    "merge",
    "merge_tensors",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
