"""Pixels and word numbers to tokens."""

from __future__ import annotations

from torch import Tensor, nn

from vlmerge_cli.model.config import ModelConfig


class PatchEmbed(nn.Module):
    """Square patches, each through one linear map: (B, 3, px, px) to (B, g², width)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch_px, stride=config.patch_px)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class TextEmbeddings(nn.Module):
    """Word embedding, plus row 0 of BERT's token types, norm, dropout: (B, T) to (B, T, width).

    Text order comes from the relative bias alone unless ``positions`` is absolute.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.token_type_embeddings = nn.Embedding(2, config.width)
        self.position_embeddings: nn.Embedding | None = None
        if config.positions == "absolute":
            self.position_embeddings = nn.Embedding(config.max_text_tokens, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, drop: Tensor | None = None) -> Tensor:
        """``drop`` (B, T, width) stands in for the dropout where the caller draws it."""
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        if self.position_embeddings is not None:
            x = x + self.position_embeddings.weight[: ids.shape[1]]
        x = self.LayerNorm(x)
        return self.dropout(x) if drop is None else x * drop  # type: ignore[no-any-return]
