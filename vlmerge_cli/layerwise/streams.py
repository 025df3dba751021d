"""The hidden states of both models on their way up: opened at the embeddings, parted where the top layers begin.

Each of these streams runs through the layers by itself,

    text, image              by l and by v, to the end
    text by vl, image by vl  the second path of ITC, in the top layers
    joint                    text, then image: in the top layers by vl (from the bottom where the model attends jointly)

once in the untouched model and once in the merged one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vlmerge_cli.model import positions
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.model.experts import Parts
from vlmerge_cli.weights.vlmodel import VLModel


@dataclass(frozen=True)
class Stream:
    """Hidden states (B, T, width) of some samples before a layer or half of one: ``expert`` and ``merged``.

    ``parts`` are the experts that run its tokens in the untouched model; ``mask`` (B, T) is False at padding.
    """

    parts: Parts
    expert: Tensor
    merged: Tensor
    mask: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.expert.shape[1]

    def pieces(self) -> list[tuple[str, slice]]:
        """Each expert with its tokens."""
        found, start = [], 0
        for expert, count in self.parts:
            found.append((expert, slice(start, start + count)))
            start += count
        return found

    def by(self, *parts: tuple[str, int]) -> Stream:
        return replace(self, parts=parts)


Streams = dict[str, Stream]


def opened(model: VLModel, ids: Tensor, mask: Tensor, image: Tensor) -> Streams:
    """Before layer 0: ids and mask (B, T), image (B, 3, px, px)."""
    text, pixels = model.embedded(ids, image)
    mask = mask.bool()
    found = {
        "text": Stream((("l", text.shape[1]),), text, text, mask),
        "image": Stream((("v", pixels.shape[1]),), pixels, pixels),
    }
    return found | {"joint": side_by_side(**found)} if model.config.joint_below_fusion else found


def parted(streams: Streams) -> Streams:
    """Before the first top layer: what vl runs begins as l and v left it."""
    text, image = streams["text"], streams["image"]
    joint = streams.get("joint") or side_by_side(text, image)
    return {
        "text": text,
        "image": image,
        "text by vl": text.by(("vl", text.num_tokens)),
        "image by vl": image.by(("vl", image.num_tokens)),
        "joint": joint.by(("vl", joint.num_tokens)),
    }


def side_by_side(text: Stream, image: Stream) -> Stream:
    """Text and image tokens as one joint stream, the text first."""
    assert text.mask is not None, "texts have a mask"
    expert, merged = (torch.cat(both, dim=1) for both in ((text.expert, image.expert), (text.merged, image.merged)))
    mask = functional.pad(text.mask, (0, image.num_tokens), value=True)
    return Stream((*text.parts, *image.parts), expert, merged, mask)


def bias_of(model: VLModel, name: str, stream: Stream, layer: int) -> Tensor | None:
    """The relative position bias of a stream in a layer, (heads, T, T)."""
    table = model.relative_position_bias_table
    if table is None:
        return None
    if name.startswith("image"):
        index = model.image_index
    elif name.startswith("text"):
        index = model.text_index[: stream.num_tokens, : stream.num_tokens]
    else:
        index = model.joint_index_of(stream.num_tokens - model.config.num_image_tokens)
    return positions.gather(table, index, range(layer, layer + 1), model.config.num_heads)[0]


def as_tensors(streams: Streams) -> dict[str, Tensor]:
    """For a file; ``from_tensors`` is the inverse."""
    found: dict[str, Tensor] = {}
    for name, stream in streams.items():
        parts = {"expert": stream.expert, "merged": stream.merged, "mask": stream.mask}
        found |= {f"{name}/{what}": part.clone() for what, part in parts.items() if part is not None}  # none shared
    return found


def from_tensors(tensors: Mapping[str, Tensor], config: ModelConfig, layer: int) -> Streams:
    """The streams as they are before ``layer``."""
    found = {}
    for name in dict.fromkeys(key.partition("/")[0] for key in tensors):
        expert, merged = tensors[f"{name}/expert"], tensors[f"{name}/merged"]
        found[name] = Stream(
            parts_of(config, name, layer, expert.shape[1]), expert, merged, tensors.get(f"{name}/mask")
        )
    return found


def parts_of(config: ModelConfig, name: str, layer: int, num_tokens: int) -> Parts:
    """Who runs a stream's tokens in a layer of the untouched model."""
    if name in ("text", "image"):
        return (("l" if name == "text" else "v", num_tokens),)
    if layer >= config.fusion_layer:
        return (("vl", num_tokens),)
    return (("l", num_tokens - config.num_image_tokens), ("v", config.num_image_tokens))
