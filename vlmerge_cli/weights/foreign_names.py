"""Other names for the same weights: the published BEiT and ViT files and the Hub's ``transformers`` BEiT.

Each translation gives the agnostic names of this package. A tensor that has no place there keeps its own
name, so that a report can list it as not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vlmerge_cli.errors import CheckpointError

#: The position tables of an image-only checkpoint, turned into one: (patch rows + 3, layers × heads).
IMAGE_TABLE = "image_relative_position_bias_table"

Tensors = Mapping[str, Tensor]
#: Our key -> (tensor, the keys of the source that it is made of).
Named = dict[str, tuple[Tensor, tuple[str, ...]]]


def form_of(keys: Mapping[str, object]) -> str:
    """``vision-language``, ``beit`` (published file, or a ViT), ``transformers`` (the Hub's) or empty."""
    if "text_embeddings.word_embeddings.weight" in keys:
        return "vision-language"
    if any(re.search(r"(^|\.)encoder\.layer\.\d+\.layernorm_before\.", key) for key in keys):
        return "transformers"
    return "beit" if any(re.match(r"(transformer\.)?blocks\.\d+\.", key) for key in keys) else ""


def translated(tensors: Tensors, where: str) -> tuple[Named, str]:
    """The tensors under this package's names, and the form they came in.

    Raises CheckpointError for weights of no known form.
    """
    form = form_of(tensors)
    if form == "vision-language":
        return {key: (tensors[key], (key,)) for key in tensors}, form
    if form == "beit":
        return _merge_tables(_split_biases(_from_beit(tensors)), where), form
    if form == "transformers":
        return _merge_tables(_split_biases(_join_qkv(_from_transformers(tensors), where)), where), form
    first = ", ".join(list(tensors)[:3]) or "none"
    fix = "vision-language, BEiT and ViT weights are"
    raise CheckpointError(f"weights of an unknown form: keys {first}, ...", where=where, fix=fix)


# --- the published file -------------------------------------------------------------------------------------


def _from_beit(tensors: Tensors) -> Named:
    named: Named = {}
    for key in tensors:
        bare = key.removeprefix("transformer.")
        bare = re.sub(r"^fc_norm\.", "norm.", bare)  # models with mean pooling keep their final norm there
        named["transformer." + bare] = (tensors[key], (key,))
    return named


# --- the Hub's ----------------------------------------------------------------------------------------------

_TABLE = "relative_position_bias_table"
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    f"encoder.relative_position_bias.{_TABLE}": f"rel_pos_bias.{_TABLE}",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "pooler.layernorm.weight": "norm.weight",
    "pooler.layernorm.bias": "norm.bias",
}
_INSIDE = {
    "attention.attention.query.": "attn.query.",
    "attention.attention.key.": "attn.key.",
    "attention.attention.value.": "attn.value.",
    "attention.attention.relative_position_bias.": "attn.",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "lambda_1": "gamma_1",
    "lambda_2": "gamma_2",
}


def _from_transformers(tensors: Tensors) -> Named:
    named: Named = {}
    for key in tensors:
        bare = re.sub(r"^(beit|vit)\.", "", key)
        match = re.match(r"encoder\.layer\.(\d+)\.(.*)", bare)
        if match:
            old = next((name for name in _INSIDE if match[2].startswith(name)), None)
            ours = f"transformer.blocks.{match[1]}.{_INSIDE[old]}{match[2][len(old) :]}" if old else key
        else:
            ours = "transformer." + _OUTSIDE[bare] if bare in _OUTSIDE else key
        named[key if ours in named else ours] = (tensors[key], (key,))
    return named


def _join_qkv(named: Named, where: str) -> Named:
    """Separate query, key and value to one (3·width, width) matrix and the two biases."""
    out: Named = {}
    for key, (tensor, sources) in named.items():
        match = re.fullmatch(r"(transformer\.blocks\.\d+\.attn\.)(query|key|value)\.(weight|bias)", key)
        if not match:
            out[key] = (tensor, sources)
        elif match[3] == "bias":
            ours = sources[0] if match[2] == "key" else f"{match[1]}{match[2][0]}_bias"
            out[ours] = (tensor, sources)  # a bias of the key cancels in the softmax: no place for it
        elif match[2] == "query":
            parts = [f"{match[1]}{part}.weight" for part in ("query", "key", "value")]
            missing = [part for part in parts if part not in named]
            if missing:
                what = missing[0].rsplit(".", 2)[1]
                raise CheckpointError(f"no {what} weight beside {sources[0]}", where=where)
            joined = torch.cat([named[part][0] for part in parts])
            out[f"{match[1]}qkv.weight"] = (joined, tuple(named[part][1][0] for part in parts))
    return out


# --- both ---------------------------------------------------------------------------------------------------


def _split_biases(named: Named) -> Named:
    """A full ``qkv.bias`` (3·width) to q_bias and v_bias; the key's part cancels in the softmax."""
    out: Named = {}
    for key, (tensor, sources) in named.items():
        if key.endswith("attn.qkv.bias"):
            q, _, v = tensor.chunk(3)
            stem = key.removesuffix("qkv.bias")
            out[f"{stem}q_bias"], out[f"{stem}v_bias"] = (q, sources), (v, sources)
        else:
            out[key] = (tensor, sources)
    return out


def _merge_tables(named: Named, where: str) -> Named:
    """One table (rows, heads) for all layers, or one each, to IMAGE_TABLE (rows, layers × heads)."""
    layers = {int(match[1]) for key in named if (match := re.match(r"transformer\.blocks\.(\d+)\.", key))}
    shared = "transformer.rel_pos_bias.relative_position_bias_table"
    each = [f"transformer.blocks.{layer}.attn.relative_position_bias_table" for layer in sorted(layers)]
    present = [key for key in each if key in named]
    if shared in named:
        table, sources = named.pop(shared)
        named[IMAGE_TABLE] = (table.repeat(1, len(layers)), sources)
    elif present:
        if len(present) < len(each):
            missing = next(key for key in each if key not in named)
            raise CheckpointError(f"some layers have a relative position table, but there is no {missing}", where=where)
        pairs = [named.pop(key) for key in each]
        sources = tuple(source for _, names in pairs for source in names)
        named[IMAGE_TABLE] = (torch.cat([tensor for tensor, _ in pairs], dim=1), sources)
    return named
