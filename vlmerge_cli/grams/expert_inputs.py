"""Which passes of a vision-language model feed which expert, and which of their tokens count.

    image   the image alone          v in every layer
    text    the text alone           l in every layer
    itc     ITC's second path        vl in the top layers, on the image's tokens and on the text's
    joint   text and image together  v and l below the top layers, vl in them

All four are what pre-training runs, and the default: the cross-modal expert then sees what it was trained on,
tokens of one modality among them. Below the top layers the passes agree, so those layers run once and count once
(unless the model attends jointly there: then the joint pass differs and counts too). Texts are as written, not
masked, and each goes with its own image. For an expert's input to equal what a task runs, leave passes out:
``image,text`` is retrieval, ``joint`` is question answering; experts without a pass get no Gram.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.grams.collector import Collector
from vlmerge_cli.layouts.survey import Survey
from vlmerge_cli.weights.vlmodel import VLModel

PASSES = ("image", "text", "itc", "joint")


def parse(text: str) -> tuple[str, ...]:
    """``image,text`` or ``all``, in the order above. Raises UsageError."""
    named = PASSES if text.strip() == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
    for name in named:
        if name not in PASSES:
            raise UsageError(f"--passes {text}: no pass {name!r}", fix=nearest(name, (*PASSES, "all")))
    if not named:
        raise UsageError("--passes names none", fix=f"choose among {', '.join(PASSES)}, or all")
    return tuple(name for name in PASSES if name in named)


def run(
    model: VLModel, ids: Tensor | None, mask: Tensor | None, image: Tensor, passes: Sequence[str], into: Collector
) -> None:
    """One batch through some passes: ids (B, T), mask (B, T) False at padding, image (B, 3, px, px)."""
    needs_text = {"text", "itc", "joint"} & set(passes)
    needs_image = {"image", "itc", "joint"} & set(passes)
    if needs_text:
        assert ids is not None, "texts are needed"
        with into.tokens(l=mask):
            text = model.text(ids, mask)
            if "text" in passes:
                model.alone(text)
    if needs_image:
        pixels = model.image(image)
        if "image" in passes:
            model.alone(pixels)
    if "itc" in passes:
        with into.tokens(vl=mask):
            model.alone(text, "vl")
        model.alone(pixels, "vl")
    if "joint" in passes:
        both = None
        if mask is not None:
            both = torch.cat([mask.bool(), mask.new_ones(len(mask), model.config.num_image_tokens).bool()], dim=1)
        with into.tokens(l=mask, vl=both):
            model.fuse(text, pixels)


def without_tokens_of(survey: Survey, counts: Mapping[str, int]) -> list[str]:
    """Which experts have no Gram, in words, such as ``vl in layers 10, 11``."""
    layers: dict[str, list[int]] = {}
    for slot, keys in survey.groups.items():
        for expert in keys if slot.kind == "linear" else ():
            its = layers.setdefault(expert, [])
            if survey.layout.gram_keys(slot, expert)[0] not in counts and slot.layer not in its:
                its.append(slot.layer)
    return [f"{expert} in layers {', '.join(map(str, sorted(its)))}" for expert, its in layers.items() if its]
