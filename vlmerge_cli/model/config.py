"""What a model is, as one frozen value: sizes, what each expert owns, which heads it has. No torch here.

The sharing of the paper's section 3 is three choices. Attention that every expert owns brings its norm
(norm1), an FFN that every expert owns brings its norm (norm2), and norms alone can be owned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vlmerge_cli.errors import UsageError, nearest

#: Architecture -> (own_attention, own_ffn, own_norms); the first five are the paper's.
ARCHITECTURES: dict[str, tuple[bool, bool, bool]] = {
    "specific": (True, True, True),
    "custom-attn": (True, False, False),
    "custom-ffn": (False, True, False),
    "custom-ln": (False, False, True),
    "agnostic": (False, False, False),
    "custom-attn-ln": (True, False, True),
    "custom-ffn-ln": (False, True, True),
}

#: Every head a model can be asked for, in the order of a configuration.
HEADS = ("itc", "itm", "mlm", "vqa", "nlvr2", "retrieval", "classification", "segmentation")
PRETRAINING_HEADS = ("itc", "itm", "mlm")

MODEL_TYPE = "vlmerge"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and choices of one model; the defaults are BEiT-base with three experts.

    Raises UsageError, with all that is wrong, for values that fit no model.
    """

    image_px: int = 224  # side of the square image
    patch_px: int = 16
    width: int = 768
    num_heads: int = 12
    ffn_width: int = 3072
    num_layers: int = 12  # N, of the vision and of the language transformer
    fusion_layer: int = 10  # first of the top layers, which also hold the vl expert (0-based)
    vocab_size: int = 30522
    max_text_tokens: int = 40
    positions: str = "relative"  # relative: one bias table for all layers; absolute: learned embeddings
    text_bias_tokens: int = 196  # text length that the relative table is sized for
    own_attention: bool = True  # each expert its own attention and norm1
    own_ffn: bool = True  # each expert its own FFN and norm2
    own_norms: bool = True  # each expert its own norm1 and norm2
    joint_below_fusion: bool = False  # attend jointly in every layer (published custom-LN; shared attention only)
    layer_scale: float = 0.1  # start value of gamma_1 and gamma_2
    drop_path: float = 0.1  # of the last layer; grows linearly from 0 at the first
    dropout: float = 0.1  # of the text embeddings, the only dropout
    heads: tuple[str, ...] = ()
    num_answers: int = 3129  # VQA
    num_classes: int = 1000  # classification
    num_segments: int = 150  # segmentation

    def __post_init__(self) -> None:
        problems = self._take_types() or self._find_problems()
        if problems:
            raise UsageError("no such model:", problems=problems)
        if self.own_attention and self.own_ffn and not self.own_norms:  # both halves bring their norms
            object.__setattr__(self, "own_norms", True)
        object.__setattr__(self, "heads", tuple(name for name in HEADS if name in self.heads))

    # --- what follows from the fields -----------------------------------------------------------------------

    @property
    def architecture(self) -> str:
        """The name of the sharing, a key of ARCHITECTURES."""
        sharing = (self.own_attention, self.own_ffn, self.own_norms)
        return next(name for name, choice in ARCHITECTURES.items() if choice == sharing)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_px // self.patch_px

    @property
    def num_image_tokens(self) -> int:
        """Patches and the image's [CLS]."""
        return self.grid**2 + 1

    @property
    def own_norm1(self) -> bool:
        """Whether experts own the norm before attention."""
        return self.own_attention or self.own_norms

    @property
    def own_norm2(self) -> bool:
        """Whether experts own the norm before the feed-forward network."""
        return self.own_ffn or self.own_norms

    @property
    def num_token_types(self) -> int:
        """Rows of the token type table: text, image and, for NLVR2, the second image."""
        return 3 if "nlvr2" in self.heads else 2

    def experts(self, layer: int) -> tuple[str, ...]:
        """The experts of a layer: the top ones also have vl."""
        return ("v", "l", "vl") if layer >= self.fusion_layer else ("v", "l")

    # --- other configurations -------------------------------------------------------------------------------

    def change(self, **changes: Any) -> ModelConfig:
        """This configuration with some fields changed; ``architecture`` sets all three own_* fields."""
        name = changes.pop("architecture", None)
        if name is not None:
            changes = {**sharing_of(name), **changes}
        _refuse_unknown(changes, "model setting")
        return replace(self, **changes)

    def merged(self) -> ModelConfig:
        """The configuration of what merging all experts gives."""
        return self.change(architecture="agnostic")

    # --- stored form ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json`` and the safetensors metadata."""
        return {"model_type": MODEL_TYPE, **asdict(self), "heads": list(self.heads)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], where: str = "") -> ModelConfig:
        """The inverse of to_dict; UsageError for another tool's file, unknown keys and wrong values."""
        values = dict(stored)
        kind = values.pop("model_type", MODEL_TYPE)
        if kind != MODEL_TYPE:
            fix = "load it as starting weights of a vlmerge model"
            raise UsageError(f"the configuration is of a {kind!r} model", where=where, fix=fix)
        _refuse_unknown(values, "model setting", where)
        try:
            return cls(**values)
        except UsageError as error:
            raise error.retold(UsageError, where, error.fix) from None

    # --- checks ---------------------------------------------------------------------------------------------

    def _take_types(self) -> list[str]:
        """Whole numbers to floats and lists to tuples where the field says so; names what cannot be."""
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "heads":
                if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
                    problems.append(f"heads must be a list of names, not {value!r}")
                    continue
                problems += [f"no head {name!r}: {nearest(name, HEADS)}" for name in value if name not in HEADS]
                object.__setattr__(self, "heads", tuple(value))
            elif field.type == "float" and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value).__name__ != field.type:
                problems.append(f"{field.name} must be {_ARTICLE[str(field.type)]}, not {value!r}")
        return problems

    def _find_problems(self) -> list[str]:
        sizes = [f for f in fields(self) if f.type == "int" and f.name != "fusion_layer"]
        problems = [f"{f.name} is {getattr(self, f.name)}, below 1" for f in sizes if getattr(self, f.name) < 1]
        if problems:
            return problems
        if self.image_px % self.patch_px:
            problems.append(f"image_px {self.image_px} is no multiple of patch_px {self.patch_px}")
        if self.width % self.num_heads:
            problems.append(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        if not 0 <= self.fusion_layer < self.num_layers:
            problems.append(f"fusion_layer {self.fusion_layer} is not among the {self.num_layers} layers")
        if self.positions not in ("relative", "absolute"):
            problems.append(f"positions {self.positions!r}: {nearest(self.positions, ['relative', 'absolute'])}")
        if self.max_text_tokens < 2:
            problems.append("max_text_tokens is below 2")
        if self.positions == "relative" and self.max_text_tokens > self.text_bias_tokens:
            more = f"max_text_tokens {self.max_text_tokens} exceeds text_bias_tokens {self.text_bias_tokens}"
            problems.append(more)
        if self.joint_below_fusion and self.own_attention:
            problems.append("joint_below_fusion needs attention that the experts share (own_attention false)")
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} {getattr(self, name)} is not in [0, 1)")
        return problems


_ARTICLE = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def _refuse_unknown(values: Mapping[str, Any], what: str, where: str = "") -> None:
    known = [field.name for field in fields(ModelConfig)]
    for name in values:
        if name not in known:
            raise UsageError(f"no {what} {name!r}", where=where, fix=nearest(name, known))


def sharing_of(architecture: str) -> dict[str, bool]:
    """The own_* fields of a named architecture."""
    if architecture not in ARCHITECTURES:
        raise UsageError(f"no architecture {architecture!r}", fix=nearest(architecture, ARCHITECTURES))
    names = ("own_attention", "own_ffn", "own_norms")
    return dict(zip(names, ARCHITECTURES[architecture], strict=True))


#: Changes to the defaults, by name.
PRESETS: dict[str, dict[str, Any]] = {
    # For tests: every part is there, nothing takes time.
    "micro": {
        "image_px": 8, "patch_px": 4, "width": 16, "num_heads": 2, "ffn_width": 32, "num_layers": 4,
        "fusion_layer": 2, "vocab_size": 32, "max_text_tokens": 6, "text_bias_tokens": 8, "num_answers": 5,
        "num_classes": 4, "num_segments": 3,
    },
    # For the built-in data set: learns the paper's effects in minutes on a CPU.
    "small": {
        "image_px": 32, "patch_px": 8, "width": 64, "num_heads": 2, "ffn_width": 128, "num_layers": 4,
        "fusion_layer": 2, "vocab_size": 96, "max_text_tokens": 20, "text_bias_tokens": 20,
        "positions": "absolute", "layer_scale": 1.0, "drop_path": 0.0, "dropout": 0.0, "num_answers": 30,
        "num_classes": 48,
    },
    # ViT-Tiny/16
    "tiny": {"width": 192, "num_heads": 3, "ffn_width": 768},
    # BEiT-base/16, the paper's
    "base": {},
    # BEiT-large/16
    "large": {"width": 1024, "num_heads": 16, "ffn_width": 4096, "num_layers": 24, "fusion_layer": 21},
}  # fmt: skip


def preset(name: str, **changes: Any) -> ModelConfig:
    """A named configuration with some fields changed (``architecture`` too).

    >>> preset("base", architecture="agnostic", heads=("vqa",), image_px=480).grid
    30
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}", fix=nearest(name, PRESETS))
    return ModelConfig(**PRESETS[name]).change(**changes)


def grid_of(num_rows: int, num_other_rows: int) -> int | None:
    """g of a position table with (2g-1)² patch rows and so many others; None if there is no such g."""
    side = math.isqrt(max(num_rows - num_other_rows, 0))
    return (side + 1) // 2 if side % 2 and side**2 == num_rows - num_other_rows else None
