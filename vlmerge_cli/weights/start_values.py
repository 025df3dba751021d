"""Start values of a model from scratch."""

from __future__ import annotations

import math

import torch
from torch import nn

from vlmerge_cli.model import heads
from vlmerge_cli.model.attention import Attention
from vlmerge_cli.model.network import Network
from vlmerge_cli.model.transformer import Block, FeedForward

STD = 0.02  # of every random start value but the patch map's
PUBLISHED_WIDTH = 768


@torch.no_grad()
def init_weights(model: Network) -> None:
    """Set every parameter, from the global random generator.

    Linear maps of the blocks: truncated normal of std 0.02, then the attention's projection and both maps
    of the FFN of layer i (0-based) divided by √(2(i+1)). Embeddings, pooler and heads: normal of std 0.02.
    Patch map: PyTorch's default. Biases and the relative position table 0, norms 1 and 0, layer scale as
    configured. Two rules go beyond the published ones: classifiers of tasks have std 0.02 · √(768 / width), which
    is 0.02 at the published width, and VQA's begins at even odds between its answers, without which small models
    spend hundreds of steps on learning that most answers are wrong.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=STD)
        elif isinstance(module, nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for layer, block in enumerate(model.transformer.blocks):
        assert isinstance(block, Block)
        _init_block(block, layer, model.config.layer_scale)
    nn.init.trunc_normal_(model.transformer.cls_token, std=STD)
    if model.transformer.pos_embed is not None:
        nn.init.trunc_normal_(model.transformer.pos_embed, std=STD)
    if model.relative_position_bias_table is not None:
        nn.init.zeros_(model.relative_position_bias_table)
    for name, parameter in model.named_parameters():
        if name.endswith("_scale"):
            nn.init.constant_(parameter, heads.LOGIT_SCALE)
        elif name == "mlm_score.bias":
            nn.init.zeros_(parameter)
    for name, module in model.named_children():
        if name.endswith("_classifier"):
            _init_classifier(module, model.config.width)
    if "vqa" in model.config.heads:
        nn.init.constant_(model.get_parameter("vqa_classifier.3.bias"), -math.log(model.config.num_answers))


def _init_classifier(module: nn.Module, width: int) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=STD * math.sqrt(PUBLISHED_WIDTH / width))


def _init_block(block: Block, layer: int, layer_scale: float) -> None:
    shrink = 1 / math.sqrt(2 * (layer + 1))
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD)
    for module in block.modules():
        if isinstance(module, Attention):
            nn.init.zeros_(module.q_bias)
            nn.init.zeros_(module.v_bias)
            module.proj.weight.mul_(shrink)
        elif isinstance(module, FeedForward):
            module.fc1.weight.mul_(shrink)
            module.fc2.weight.mul_(shrink)
    nn.init.constant_(block.gamma_1, layer_scale)
    nn.init.constant_(block.gamma_2, layer_scale)
