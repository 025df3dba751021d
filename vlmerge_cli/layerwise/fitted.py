"""A prepared merge whose slots are fitted layer by layer on image-text pairs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from vlmerge_cli import console, devices
from vlmerge_cli.errors import UsageError
from vlmerge_cli.grams.from_data import Choices, described, open_examples
from vlmerge_cli.layerwise.layerwise_method import Layerwise
from vlmerge_cli.layerwise.streams import Streams, opened
from vlmerge_cli.layerwise.walk import Settings, Walk
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.merging.in_memory import merged as merged_in_memory
from vlmerge_cli.merging.opening import Prepared
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods.interpolation import Interpolation
from vlmerge_cli.weights.vlmodel import VLModel

#: Modules whose linear maps are fitted, with their biases.
FITTED = ("attn.", "mlp.")


def fitted(ready: Prepared, output: Path, choices: Choices) -> Prepared:
    """The same merge with its method's slots fitted; streams are kept in ``output``.layerwise until all is done.

    A run that was stopped goes on from its last layer. Raises UsageError for settings that leave experts out, and what
    opening the data and the walk raise.
    """
    method, survey = ready.plan.method, ready.plan.survey
    assert isinstance(method, Layerwise), method
    if ready.request.keep or ready.request.experts_for:
        raise UsageError("layerwise merges every slot of all experts: leave --keep and --experts-for out")
    device = devices.for_model(choices.device)
    teacher = VLModel.from_checkpoint(ready.checkpoint, drop_path=0.0, dropout=0.0).to(device).eval()
    examples = open_examples(choices, teacher, ready.checkpoint)
    average = merged_in_memory(teacher.state_dict(), Interpolation(), survey.layout, None, None, Request(), False)
    model = VLModel(teacher.config.merged(), init=False).to(device).eval()
    model.load_state_dict(average)
    about = described(choices, examples) | {"checkpoint": ready.checkpoint.fingerprint()}
    folder = output.with_name(output.name + ".layerwise")
    walk = Walk(teacher, model, folder, Settings(method.joint, method.second, method.ridge), about)

    def streams() -> Iterator[Streams]:
        with torch.no_grad():
            for ids, mask, image in examples.batches(0):
                assert ids is not None, "pairs have texts"
                yield opened(teacher, ids, mask if mask is not None else torch.ones_like(ids, dtype=torch.bool), image)

    with console.progress("layers", teacher.config.num_layers, "layers") as advance:
        walk.run(streams, advance)
    shutil.rmtree(folder, ignore_errors=True)
    values = {slot: model.state_dict()[survey.layout.merged_key(slot)] for slot in survey.groups if _is_fitted(slot)}
    solved = replace(method, values={slot: value.cpu().numpy() for slot, value in values.items()}, fitted_on=about)
    return replace(ready, plan=replace(ready.plan, method=solved))


def _is_fitted(slot: Slot) -> bool:
    return slot.name.startswith(FITTED)
