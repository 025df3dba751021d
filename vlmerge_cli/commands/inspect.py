"""``vlmerge inspect``: what is inside a checkpoint, from its headers alone."""

from typing import Annotated, Any

import typer

from vlmerge_cli import api, console
from vlmerge_cli.flags.common import CheckpointArgument, JsonOption, LayoutOption


def command(
    checkpoint: CheckpointArgument,
    layout: LayoutOption = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its type and shape.")] = False,
    json: JsonOption = False,
) -> None:
    """What is inside CKPT: layout, architecture, experts of each layer, parameters, types, metadata."""
    document = api.inspect(checkpoint, layout=layout, keys=keys).to_dict()
    if json:
        console.show_json(document)
    else:
        console.show_lines(_text(document))


def _text(document: dict[str, Any]) -> list[str]:
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
        from vlmerge_cli.methods.method import described

        method, settings = document["recipe"].get("method"), document["recipe"].get("settings")
        shown = described(str(method), settings) if isinstance(settings, dict) else ""
        lines.append(f"  merged by     {method} ({shown})")
    for name, value in document["metadata"].items():
        lines.append(f"  metadata      {name}: {value if len(value) <= 100 else value[:97] + '...'}")
    lines += [f"  problem       {problem}" for problem in document.get("problems", [])]
    for key, (dtype, shape) in document.get("keys", {}).items():
        lines.append(f"  {dtype:<8} {tuple(shape)!s:<18} {key}")
    return lines


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
