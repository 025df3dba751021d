"""What is inside a checkpoint, from its headers alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlmerge_cli.checkpoint.dtypes import is_parameter
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.errors import LayoutError
from vlmerge_cli.layouts.layout import Layout
from vlmerge_cli.layouts.survey import Survey, find
from vlmerge_cli.result_base import Result


@dataclass(frozen=True)
class Inspection(Result):
    """Files, sizes, types and, where a layout fits, experts by layer; what does not apply is None.

    ``num_parameters_mergeable`` are those of experts, ``num_parameters_after`` is what merging them would leave.
    """

    checkpoint: str
    files: list[str]
    num_tensors: int
    num_bytes: int
    num_parameters: int
    dtypes: dict[str, dict[str, int]]
    metadata: dict[str, str]
    layout: str | None
    reason: str
    architecture: str | None = None
    num_layers: int | None = None
    experts: dict[str, list[str]] | None = None
    num_parameters_mergeable: int | None = None
    num_parameters_after: int | None = None
    problems: list[str] | None = None
    largest_slot: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    keys: dict[str, list[Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if value is not None or name == "layout"}


def inspected(opened: Checkpoint, layout: Layout | None, keys: bool = False) -> Inspection:
    """Raises LayoutError for a ``layout`` that does not fit; where none is given and none fits, that is said."""
    name: str | None = None
    model: dict[str, Any] = {}
    try:
        survey, reason = find(opened.tensors, layout, opened.name)
        name, model = survey.layout.name, _about_model(opened, survey)
    except LayoutError as error:
        if layout is not None:
            raise
        reason = error.what
    recipe = opened.about().get("recipe")
    return Inspection(
        opened.name,
        [shard.path.name for shard in opened.shards],
        len(opened.tensors),
        opened.num_bytes,
        _num_parameters(opened, opened.tensors),
        _dtypes(opened),
        dict(opened.metadata),
        name,
        reason,
        **model,
        recipe=recipe if isinstance(recipe, dict) else None,
        keys={key: [t.dtype, list(t.shape)] for key, t in opened.tensors.items()} if keys else None,
    )


def _dtypes(opened: Checkpoint) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for tensor in opened.tensors.values():
        entry = found.setdefault(tensor.dtype, {"num_tensors": 0, "num_bytes": 0})
        entry["num_tensors"] += 1
        entry["num_bytes"] += tensor.num_bytes
    return found


def _about_model(opened: Checkpoint, survey: Survey) -> dict[str, Any]:
    grouped = _num_parameters(opened, (key for keys in survey.groups.values() for key in keys.values()))
    merged = _num_parameters(opened, (next(iter(keys.values())) for keys in survey.groups.values()))
    total = _num_parameters(opened, opened.tensors)
    found: dict[str, Any] = {
        "architecture": survey.architecture,
        "num_layers": len(survey.layers),
        "experts": {str(layer): list(experts) for layer, experts in survey.experts.items()},
        "num_parameters_mergeable": grouped,
        "num_parameters_after": total - grouped + merged,
        "problems": survey.problems(),
    }
    if survey.groups:
        size = {slot: sum(opened.tensors[k].num_bytes for k in keys.values()) for slot, keys in survey.groups.items()}
        slot = max(size, key=size.__getitem__)
        key = next(iter(survey.groups[slot].values()))
        found["largest_slot"] = {"slot": slot.label, "shape": list(opened.tensors[key].shape)}
    return found


def _num_parameters(opened: Checkpoint, keys: Iterable[str]) -> int:
    tensors = (opened.tensors[key] for key in keys)
    return sum(tensor.num_elements for tensor in tensors if is_parameter(tensor.dtype))
