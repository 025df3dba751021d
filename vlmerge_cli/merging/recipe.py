"""What a merged checkpoint says of itself: its recipe in the metadata, and what goes beside its weights in a folder."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.checkpoint.small_files import companions
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import Output, create
from vlmerge_cli.merging.opening import Prepared
from vlmerge_cli.merging.plan import Merge, Plan
from vlmerge_cli.version import __version__
from vlmerge_cli.weights.vocabulary import moved


def output_of(
    ready: Prepared, target: Target, full_digest: bool, shared: bool = False
) -> AbstractContextManager[Output]:
    """The output of a prepared merge, to be filled: its recipe in the metadata, small files beside it."""
    about = moved(recipe(ready, full_digest), ready.checkpoint.path, target.path)
    tensors = ready.checkpoint.tensors
    theirs = {name: text for name, text in ready.checkpoint.metadata.items() if name not in tensors}  # aliases
    metadata = {**theirs, "format": "pt", "vlmerge": json.dumps(about, sort_keys=True)}
    return create(target, ready.plan.specs, metadata, _extras(ready, about, target), shared)


def recipe(ready: Prepared, full_digest: bool = False) -> dict[str, Any]:
    """What was done, so that the merge can be repeated from its output; files by name and digest."""

    def described(source: Checkpoint | None) -> dict[str, str] | None:
        if source is None:
            return None
        return {"name": Path(source.name).name, "digest": source.fingerprint(full_digest)}

    plan, request = ready.plan, ready.request
    asked = {"keep": list(request.keep), "experts_for": request.experts_for, "dtype": request.dtype}
    inputs = {"checkpoint": ready.checkpoint, "base": ready.base, "grams": ready.grams}
    earlier = ready.checkpoint.about().get("recipe")
    about: dict[str, Any] = {
        **ready.checkpoint.about(),  # what the input says of itself: its tokenizer, its answers
        "version": __version__,
        "recipe": {
            "method": plan.method.name,
            "settings": plan.method.settings(),
            **plan.method.learnt(),
            **{name: value for name, value in asked.items() if value},
            "layout": plan.survey.layout.name,
            "architecture": plan.survey.architecture,
            "inputs": {name: described(source) for name, source in inputs.items() if source is not None},
            **({"earlier": earlier} if isinstance(earlier, dict) else {}),
        },
    }
    config = ready.checkpoint.config() or _told(ready.checkpoint)
    if config is not None:
        about["config"] = _merged_config(config, plan)
    return about


def _told(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What the weights tell while the experts are there: afterwards nothing tells where fusion begins."""
    from vlmerge_cli.weights.inferred_config import told_config

    return told_config({key: tensor.shape for key, tensor in checkpoint.tensors.items()}, checkpoint.name)


def _merged_config(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The configuration of what comes out: agnostic, where nothing was kept apart and the model is this tool's."""
    from vlmerge_cli.model.config import MODEL_TYPE, ModelConfig

    kept = any(key in plan.specs for sources in plan.survey.groups.values() for key in sources.values())
    if kept or config.get("model_type") != MODEL_TYPE:
        return config
    return ModelConfig.from_dict(config).merged().to_dict()


def _extras(ready: Prepared, about: dict[str, Any], target: Target) -> dict[str, bytes]:
    """Files that a folder gets beside its weights: the input's own small files, its configuration, a card."""
    if target.is_file:
        return {}
    folder = ready.checkpoint.folder
    extras = companions(folder) if folder else {}
    if "config" in about:
        extras["config.json"] = (json.dumps(about["config"], indent=2) + "\n").encode()
    extras["README.md"] = _card(ready, about).encode(errors="backslashreplace")
    return extras


def _card(ready: Prepared, about: dict[str, Any]) -> str:
    before, after = ready.num_parameters
    steps = about["recipe"]
    settings = ", ".join(f"{name} {value}" for name, value in steps["settings"].items())
    num_merges = sum(isinstance(step, Merge) for step in ready.plan.steps)
    sources = "\n".join(f"- {what}: `{its['name']}` ({its['digest']})" for what, its in steps["inputs"].items())
    return f"""---
tags: [model-merging, vlmerge]
---

# {Path(ready.checkpoint.name).name}, merged

One modality-agnostic transformer made of the {steps["architecture"]} experts of a vision-language model:
{num_merges} slots merged by {steps["method"]} ({settings}), {before:,} parameters before, {after:,} after.

{sources}
"""
