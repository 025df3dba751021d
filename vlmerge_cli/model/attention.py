"""Multi-head self-attention with an additive bias, as BEiT has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """softmax(q kᵀ / √d + bias) v, then a projection. The key has no bias (it would cancel in the softmax).

    ``qkv.weight`` is (3·width, width) in the order q, k, v.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, T, width), bias (heads, T, T), mask (B, T) False where no one may look; to (B, T, width)."""
        return self.proj(self.mixed(x, bias, mask))  # type: ignore[no-any-return]

    def mixed(self, x: Tensor, bias: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the projection is given: the heads side by side, (B, T, width)."""
        num_rows, num_tokens, width = x.shape
        heads = self.looked_up(x).view(num_rows, num_tokens, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, heads, T, d)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=additive(bias, mask, q.dtype))
        return y.transpose(1, 2).reshape(num_rows, num_tokens, width)

    def looked_up(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (B, T, 3·width)."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return functional.linear(x, self.qkv.weight, bias)


def additive(bias: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores: (1 or B, heads or 1, 1 or T, T), or None.

    Masked keys get the type's lowest number and not -inf, so that a row with no key at all stays finite. Its
    softmax is computed in float32 by every kernel, whatever ``dtype``.
    """
    if mask is None:
        return None if bias is None else bias[None].to(dtype)
    scores = torch.zeros(1, 1, 1, 1, dtype=dtype, device=mask.device) if bias is None else bias[None].to(dtype)
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(dtype).min)
