"""One layer's two halves, attention and feed-forward, run by the untouched and by the merged model side by side.

For each half there are two linear maps to be fitted: the first (qkv, fc1) to what the expert's own says in its own
stream, the second (proj, fc2) to what still lacks between the merged stream and the expert's after this half. So each
layer also repairs what the layers below it spoilt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlmerge_cli.layerwise.streams import Stream
from vlmerge_cli.model.experts import by_part, of

#: Takes inputs (B, T, d) of the merged model, targets (B, T, out) and the mask (B, T) of a stream into its sums.
Give = Callable[[Tensor, Tensor, Tensor | None], None]


@dataclass(frozen=True)
class Layer:
    """A block of the untouched model, the merged one in its place, and a stream's position bias (heads, T, T)."""

    own: Any
    new: Any
    bias: Tensor | None


def queries(layer: Layer, stream: Stream, give: Give) -> None:
    """Inputs and targets of qkv; a stream attends as one, so one expert owns its attention."""
    ((expert, _),) = stream.parts
    found = by_part(layer.new.norm1, stream.merged, stream.parts)
    truth = by_part(layer.own.norm1, stream.expert, stream.parts)
    attention: Any = of(layer.own.attn, expert)
    give(found, attention.looked_up(truth), stream.mask)


def mixtures(layer: Layer, stream: Stream, give: Give) -> None:
    """Inputs and targets of proj."""
    after = _attended(layer.own, stream.expert, stream, layer.bias)
    found = _mixed(layer.new, stream.merged, stream, layer.bias)
    give(found, _lacking(after - stream.merged, layer.new.gamma_1), stream.mask)


def hidden(layer: Layer, stream: Stream, give: Give) -> None:
    """Inputs and targets of fc1."""
    found = by_part(layer.new.norm2, stream.merged, stream.parts)
    truth = by_part(layer.own.norm2, stream.expert, stream.parts)
    said = [of(layer.own.mlp, expert).fc1(truth[:, place]) for expert, place in stream.pieces()]  # type: ignore[operator]
    give(found, torch.cat(said, dim=1), stream.mask)


def outputs(layer: Layer, stream: Stream, give: Give) -> None:
    """Inputs and targets of fc2."""
    lacks = _lacking(_fed(layer.own, stream.expert, stream) - stream.merged, layer.new.gamma_2)
    inputs = by_part(layer.new.norm2, stream.merged, stream.parts)
    give(functional.gelu(layer.new.mlp.fc1(inputs)), lacks, stream.mask)


def attend(layer: Layer, stream: Stream) -> Stream:
    """Both streams after the first half."""
    own = _attended(layer.own, stream.expert, stream, layer.bias)
    return replace(stream, expert=own, merged=_attended(layer.new, stream.merged, stream, layer.bias))


def feed(layer: Layer, stream: Stream) -> Stream:
    """Both streams after the second half."""
    own = _fed(layer.own, stream.expert, stream)
    return replace(stream, expert=own, merged=_fed(layer.new, stream.merged, stream))


def _mixed(block: Any, x: Tensor, stream: Stream, bias: Tensor | None) -> Tensor:
    """What a block's proj is given, (B, T, width)."""
    attention: Any = of(block.attn, stream.parts[0][0])
    return attention.mixed(by_part(block.norm1, x, stream.parts), bias, stream.mask)  # type: ignore[no-any-return]


def _attended(block: Any, x: Tensor, stream: Stream, bias: Tensor | None) -> Tensor:
    attention: Any = of(block.attn, stream.parts[0][0])
    return x + block.gamma_1 * attention.proj(_mixed(block, x, stream, bias))  # type: ignore[no-any-return]


def _fed(block: Any, x: Tensor, stream: Stream) -> Tensor:
    y = by_part(block.mlp, by_part(block.norm2, x, stream.parts), stream.parts)
    return x + block.gamma_2 * y  # type: ignore[no-any-return]


def _lacking(step: Tensor, scale: Tensor) -> Tensor:
    """What a linear map has to say so that a half adds ``step``; where the layer scale is 0 it has no say, and is 0."""
    return torch.where(scale == 0, 0.0, step / torch.where(scale == 0, 1.0, scale))
