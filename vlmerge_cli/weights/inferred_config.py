"""The configuration of a checkpoint that carries none, read off its keys and shapes. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vlmerge_cli import console
from vlmerge_cli.errors import CheckpointError, UsageError
from vlmerge_cli.model.config import ModelConfig, grid_of

Shapes = Mapping[str, tuple[int, ...]]

#: Where the top layers begin in an agnostic model of the published depths: nothing in its weights tells.
PUBLISHED_FUSION = {12: 10, 24: 21}

_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.")
_OWNED = re.compile(r"transformer\.blocks\.\d+\.(\w+)\.v\.")
_CLASSIFIERS = {"vqa_classifier.3.bias": "num_answers", "img_cls_classifier.bias": "num_classes",
                "seg_classifier.bias": "num_segments"}  # fmt: skip
_HEAD_OF = {"ifm_vl_text_proj.": "itc", "itm_score.": "itm", "mlm_score.": "mlm", "vqa_classifier.": "vqa",
            "nlvr2_classifier.": "nlvr2", "img_cls_classifier.": "classification",
            "seg_classifier.": "segmentation"}  # fmt: skip
_PUBLISHED_TEXT_ROOM = 196


class Inferred(NamedTuple):
    """A configuration, and which of its fields the weights did not tell."""

    config: ModelConfig
    guessed: tuple[str, ...]

    def __str__(self) -> str:
        """The guesses in words."""
        values = ", ".join(f"{name} {getattr(self.config, name)}" for name in self.guessed)
        return f"the weights do not tell {', '.join(self.guessed)}: taken to be {values}"


def infer_config(shapes: Shapes, where: str = "", **known: Any) -> ModelConfig:
    """See ``inferred``."""
    return inferred(shapes, where, **known).config


def inferred(shapes: Shapes, where: str = "", **known: Any) -> Inferred:
    """The model whose weights have these shapes; ``known`` fields are taken as given.

    What leaves no trace in weights (dropout, stochastic depth, joint_below_fusion) gets its default.
    Raises CheckpointError when these are not such weights or a size cannot be told, and says which to give.
    """
    layers = {int(match[1]) for key in shapes if (match := _BLOCK.match(key))}
    needed = ["transformer.patch_embed.proj.weight", "text_embeddings.word_embeddings.weight"]
    missing = [key for key in needed if key not in shapes]
    if missing or not layers:
        what = missing[0] if missing else "transformer.blocks.0"
        raise CheckpointError(f"not the weights of a vision-language model: no {what}", where=where)
    width, _, patch_px, _ = shapes[needed[0]]
    found: dict[str, Any] = {
        "width": width, "patch_px": patch_px, "num_layers": max(layers) + 1,
        "vocab_size": shapes[needed[1]][0],
        **_sharing(shapes), **_heads(shapes),
    }  # fmt: skip
    fc1 = next((shape for key, shape in shapes.items() if key.endswith("fc1.weight")), None)
    found["ffn_width"] = fc1[0] if fc1 else 4 * width
    found |= _fusion(shapes, found["num_layers"])
    found |= _positions(shapes, found)
    found |= known
    untold = [f for f in ("fusion_layer", "num_heads", "image_px", "max_text_tokens") if found.get(f) is None]
    if untold:
        fix = "put a config.json beside the weights, or give these settings"
        raise CheckpointError(f"the weights do not tell {', '.join(untold)}", where=where, fix=fix)
    told = {"fusion_layer": any(".vl." in key for key in shapes), "max_text_tokens": _text_length(shapes) is not None}
    guessed = tuple(name for name, is_told in told.items() if not is_told and name not in known)
    try:
        return Inferred(ModelConfig(**found), guessed)
    except UsageError as error:
        raise error.retold(CheckpointError, where) from None


def told_config(shapes: Shapes, where: str = "") -> dict[str, Any] | None:
    """What is stored of a checkpoint that carries no configuration, while its experts tell where fusion begins.

    None for one that does not tell it, and for other weights. What else is guessed is said.
    """
    try:
        found = inferred(shapes, where)
    except CheckpointError:
        return None
    if "fusion_layer" in found.guessed:
        return None
    if found.guessed:
        console.warn(str(found))
    return found.config.to_dict()


def _sharing(shapes: Shapes) -> dict[str, bool]:
    """What experts own in some layer: others may be merged already."""
    owned = {match[1] for key in shapes if (match := _OWNED.match(key))}
    attention, ffn, norms = "attn" in owned, "mlp" in owned, {"norm1", "norm2"} <= owned
    return {"own_attention": attention, "own_ffn": ffn, "own_norms": norms}


def _heads(shapes: Shapes) -> dict[str, Any]:
    heads = [head for start, head in _HEAD_OF.items() if any(key.startswith(start) for key in shapes)]
    if "itc" not in heads and any(key.startswith("ifm_text_proj.") for key in shapes):
        heads.append("retrieval")
    sizes = {field: shapes[key][0] for key, field in _CLASSIFIERS.items() if key in shapes}
    return {"heads": tuple(heads), **sizes}


def _fusion(shapes: Shapes, num_layers: int) -> dict[str, int]:
    top = [int(match[1]) for key in shapes if ".vl." in key and (match := _BLOCK.match(key))]
    if top:
        return {"fusion_layer": min(top)}
    return {"fusion_layer": PUBLISHED_FUSION[num_layers]} if num_layers in PUBLISHED_FUSION else {}


def _text_length(shapes: Shapes) -> int | None:
    text_keys = {"text_embeddings.position_embeddings.weight": 0, "text_relative_position_index": 0,
                 "text_embeddings.position_ids": 1}  # fmt: skip
    return next((shapes[key][axis] for key, axis in text_keys.items() if key in shapes), None)


def _positions(shapes: Shapes, found: Mapping[str, Any]) -> dict[str, Any]:
    """Image size, text length and attention heads, from the position tables."""
    text = _text_length(shapes)
    patch_px = found["patch_px"]
    table = shapes.get("relative_position_bias_table")
    if table is None:
        tokens = shapes.get("transformer.pos_embed", (1, 0))[1]
        grid = round(max(tokens - 1, 0) ** 0.5) or None
        px = grid * patch_px if grid else None
        return {"positions": "absolute", "image_px": px, "max_text_tokens": text}
    num_rows, num_columns = table
    index = shapes.get("relative_position_index")
    if index:
        grid = round((index[0] - 1) ** 0.5)
    else:
        grid = grid_of(num_rows, 5 + 2 * _PUBLISHED_TEXT_ROOM)
    if grid is None:
        return {"max_text_tokens": text, "num_heads": num_columns // found["num_layers"]}
    room = (num_rows - 5 - (2 * grid - 1) ** 2) // 2
    return {
        "positions": "relative", "num_heads": num_columns // found["num_layers"], "image_px": grid * patch_px,
        "text_bias_tokens": room, "max_text_tokens": text or min(40, room),
    }  # fmt: skip
