"""Blocks and the stack of them, with the image embedding that the published keys keep beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlmerge_cli.model.attention import Attention
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.model.embed import PatchEmbed
from vlmerge_cli.model.experts import Parts, by_part, experts, of


class FeedForward(nn.Module):
    """fc1, exact GELU, fc2: (B, T, width) to (B, T, width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + drop(γ₁ · attention(norm1(x))), then x + drop(γ₂ · ffn(norm2(x))).

    γ₁ and γ₂ (layer scale) are shared by the experts in every architecture.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        names, width = config.experts(layer), config.width
        self.norm1 = experts(lambda: nn.LayerNorm(width, eps=1e-6), names, config.own_norm1)
        self.attn = experts(lambda: Attention(width, config.num_heads), names, config.own_attention)
        self.norm2 = experts(lambda: nn.LayerNorm(width, eps=1e-6), names, config.own_norm2)
        self.mlp = experts(lambda: FeedForward(width, config.ffn_width), names, config.own_ffn)
        self.gamma_1 = nn.Parameter(torch.full((width,), config.layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, x: Tensor, parts: Parts, bias: Tensor | None, mask: Tensor | None, keep: Tensor | None) -> Tensor:
        """x (B, T, width), bias (heads, T, T), mask (B, T), keep (2, B) that scales each half of the block.

        Several ``parts`` attend to each other, so they must share their attention.
        """
        assert len(parts) == 1 or isinstance(self.attn, Attention), parts
        y = of(self.attn, parts[0][0])(by_part(self.norm1, x, parts), bias, mask)
        x = _added(x, y, self.gamma_1, None if keep is None else keep[0])
        y = by_part(self.mlp, by_part(self.norm2, x, parts), parts)
        return _added(x, y, self.gamma_2, None if keep is None else keep[1])


def _added(x: Tensor, y: Tensor, gamma: Tensor, keep: Tensor | None) -> Tensor:
    """x + gamma · keep · y, in one pass over y."""
    return torch.addcmul(x, y, gamma if keep is None else gamma * keep[:, None, None])


class Transformer(nn.Module):
    """The blocks, the final norm, and the image's way in."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed: nn.Parameter | None = None
        if config.positions == "absolute":
            self.pos_embed = nn.Parameter(torch.zeros(1, config.num_image_tokens, config.width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.recompute = False

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, px, px) to (B, 1 + g², width), [CLS] first."""
        patches = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return x if self.pos_embed is None else x + self.pos_embed

    def run(
        self,
        x: Tensor,
        layers: range,
        parts: Parts,
        bias: Tensor | None,
        mask: Tensor | None,
        keep: Tensor | None,
    ) -> Tensor:
        """x (B, T, width) through some layers; bias (layers, heads, T, T), keep (all layers, 2, B)."""
        for place, layer in enumerate(layers):
            block = self.blocks[layer]
            inputs = (
                x,
                parts,
                None if bias is None else bias[place],
                mask,
                None if keep is None else keep[layer],
            )
            if self.recompute and torch.is_grad_enabled():
                # Nothing in a block is random, so no random state has to be kept for running it again.
                x = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*inputs)
        return x
