"""What is put on top of the transformer for each task, under the published names.

Segmentation has no published head. Here it is one linear map of every patch, enlarged to the image: the
decoder of Segmenter's linear variant (Strudel et al., 2021, "Segmenter: Transformer for Semantic
Segmentation"). It adds one matrix, so that a score tells about the transformer that was merged and not
about a decoder trained on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmerge_cli.model.config import ModelConfig

#: Start of both logit scales: log(1 / 0.07), the temperature of CLIP.
LOGIT_SCALE = math.log(1 / 0.07)

#: Head -> the parts of the model that it needs.
PARTS: dict[str, tuple[str, ...]] = {
    "itc": (
        "ifm_text_proj", "ifm_image_proj", "ifm_vl_text_proj", "ifm_vl_image_proj",
        "logit_scale", "logit_vl_scale",
    ),
    "itm": ("pooler", "itm_score"),
    "mlm": ("mlm_score",),
    "vqa": ("pooler", "vqa_classifier"),
    "nlvr2": ("pooler", "nlvr2_classifier"),
    "retrieval": ("ifm_text_proj", "ifm_image_proj", "logit_scale"),
    "classification": ("img_cls_classifier",),
    "segmentation": ("seg_classifier",),
}  # fmt: skip


class Pooler(nn.Module):
    """tanh(dense(first token)): (B, T, width) to (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class Wrapped(nn.Module):
    """A linear map under the name ``fc``."""

    def __init__(self, width: int, num_outputs: int, bias: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(width, num_outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)  # type: ignore[no-any-return]


class MaskedWords(nn.Module):
    """decoder(norm(gelu(dense(x)))) + bias: (..., width) to (..., vocabulary); not tied to the words."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(width, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        self.decoder = nn.Linear(width, vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        x = self.transform["LayerNorm"](functional.gelu(self.transform["dense"](x)))
        return functional.linear(x, self.decoder.weight, self.bias)


def classifier(width: int, hidden: int, num_outputs: int) -> nn.Sequential:
    """Linear, norm, GELU, linear: (B, width) to (B, outputs)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, num_outputs))


def build(config: ModelConfig) -> dict[str, nn.Module | nn.Parameter]:
    """The parts of all heads of a configuration, by name."""
    w = config.width
    make: dict[str, Callable[[], nn.Module]] = {
        "pooler": lambda: Pooler(w),
        "itm_score": lambda: Wrapped(w, 2, bias=True),
        "mlm_score": lambda: MaskedWords(w, config.vocab_size),
        "vqa_classifier": lambda: classifier(w, 2 * w, config.num_answers),
        "nlvr2_classifier": lambda: classifier(2 * w, 2 * w, 2),
        "img_cls_classifier": lambda: nn.Linear(w, config.num_classes),
        "seg_classifier": lambda: nn.Linear(w, config.num_segments),
    }
    built: dict[str, nn.Module | nn.Parameter] = {}
    for name in dict.fromkeys(part for head in config.heads for part in PARTS[head]):
        if name.endswith("_scale"):
            built[name] = nn.Parameter(torch.tensor(LOGIT_SCALE))
        elif name.endswith("_proj"):
            built[name] = Wrapped(w, w, bias=False)
        else:
            built[name] = make[name]()
    return built


def widened(x: Tensor) -> Tensor:
    """What heads say and losses are made of: at least float32, whatever autocast made of it."""
    return x if x.dtype == torch.float64 else x.float()
