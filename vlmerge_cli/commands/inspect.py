"""``vlmerge inspect``: what is inside a checkpoint, from its headers alone."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.checkpoint.dtypes import is_parameter
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.errors import LayoutError
from vlmerge_cli.flags.common import CheckpointArgument, JsonOption, LayoutOption, find_layout
from vlmerge_cli.layouts.survey import Survey, find
from vlmerge_cli.methods.method import described


def command(
    checkpoint: CheckpointArgument,
    layout: LayoutOption = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its type and shape.")] = False,
    json: JsonOption = False,
) -> None:
    """What is inside CKPT: layout, architecture, experts of each layer, parameters, types, metadata."""
    with open_checkpoint(checkpoint) as opened:
        document = _about_file(opened)
        try:
            survey, reason = find(opened.tensors, find_layout(layout), checkpoint)
            document |= _about_model(opened, survey) | {"reason": reason}
        except LayoutError as error:
            if layout is not None:
                raise
            document |= {"layout": None, "reason": error.what}
        recipe = opened.about().get("recipe")
        if isinstance(recipe, dict):
            document["recipe"] = recipe
        if keys:
            document["keys"] = {key: [t.dtype, list(t.shape)] for key, t in opened.tensors.items()}
    if json:
        console.show_json(document)
    else:
        console.show(_text(document))


def _about_file(opened: Checkpoint) -> dict[str, Any]:
    dtypes: dict[str, dict[str, int]] = {}
    for tensor in opened.tensors.values():
        entry = dtypes.setdefault(tensor.dtype, {"num_tensors": 0, "num_bytes": 0})
        entry["num_tensors"] += 1
        entry["num_bytes"] += tensor.num_bytes
    return {
        "checkpoint": opened.name,
        "files": [shard.path.name for shard in opened.shards],
        "num_tensors": len(opened.tensors),
        "num_bytes": opened.num_bytes,
        "num_parameters": _num_parameters(opened, opened.tensors),
        "dtypes": dtypes,
        "metadata": dict(opened.metadata),
    }


def _about_model(opened: Checkpoint, survey: Survey) -> dict[str, Any]:
    grouped = _num_parameters(opened, (key for keys in survey.groups.values() for key in keys.values()))
    merged = _num_parameters(opened, (next(iter(keys.values())) for keys in survey.groups.values()))
    total = _num_parameters(opened, opened.tensors)
    document: dict[str, Any] = {
        "layout": survey.layout.name,
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
        document["largest_slot"] = {"slot": slot.label, "shape": list(opened.tensors[key].shape)}
    return document


def _num_parameters(opened: Checkpoint, keys: Iterable[str]) -> int:
    tensors = (opened.tensors[key] for key in keys)
    return sum(tensor.num_elements for tensor in tensors if is_parameter(tensor.dtype))


def _text(document: dict[str, Any]) -> str:
    files = document["files"]
    held = files[0] if len(files) == 1 else f"{len(files)} shards"
    lines = [f"{document['checkpoint']} ({held}, {console.size(document['num_bytes'])})"]
    if document["layout"] is None:
        lines.append(f"  layout        none: {document['reason']}")
    else:
        lines += [
            f"  layout        {document['layout']} ({document['reason']})",
            f"  architecture  {document['architecture']}",
            f"  layers        {document['num_layers']}: {_layers(document['experts'])}",
        ]
    total = document["num_parameters"]
    lines.append(f"  parameters    {total:,}")
    if document.get("num_parameters_mergeable"):
        after, mergeable = document["num_parameters_after"], document["num_parameters_mergeable"]
        lines.append(
            f"                {mergeable:,} in experts; {after:,} after merging ({1 - after / total:.0%} fewer)"
        )
    if "largest_slot" in document:
        slot = document["largest_slot"]
        lines.append(f"  largest slot  {slot['slot']} {tuple(slot['shape'])}")
    for name, entry in sorted(document["dtypes"].items()):
        lines.append(f"  {name:<13} {entry['num_tensors']} tensors, {console.size(entry['num_bytes'])}")
    if "recipe" in document:
        method, settings = document["recipe"].get("method"), document["recipe"].get("settings")
        shown = described(str(method), settings) if isinstance(settings, dict) else ""
        lines.append(f"  merged by     {method} ({shown})")
    for name, value in document["metadata"].items():
        lines.append(f"  metadata      {name}: {value if len(value) <= 100 else value[:97] + '...'}")
    lines += [f"  problem       {problem}" for problem in document.get("problems", [])]
    for key, (dtype, shape) in document.get("keys", {}).items():
        lines.append(f"  {dtype:<8} {tuple(shape)!s:<18} {key}")
    return "\n".join(lines)


def _layers(experts: dict[str, list[str]]) -> str:
    """``v l in 0-9, v l vl in 10-11``."""
    runs: list[tuple[str, list[str]]] = []
    for layer, its in experts.items():
        words = " ".join(its) or "one set of weights"
        if runs and runs[-1][0] == words:
            runs[-1][1].append(layer)
        else:
            runs.append((words, [layer]))
    return ", ".join(f"{words} in {its[0]}" + (f"-{its[-1]}" if len(its) > 1 else "") for words, its in runs)
