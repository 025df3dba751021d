"""The vision-language transformer: what goes in, the passes through its layers, and what its heads say.

    text  (B, T)          -> embed -> layers 0 ... F-1 as l  ─┬─ layers F ... N-1 as l   the text alone
                                                              ├─ layers F ... N-1 as vl  its second ITC path
                                                              └─ side by side, text first,
                                                              ┌─ layers F ... N-1 as vl  the joint pass
    image (B, 3, px, px)  -> embed -> layers 0 ... F-1 as v  ─┴─ as v or vl, like the text

A ``State`` is what one modality is after layer F-1 (F = fusion_layer). It does not depend on the other
modality, so it is computed once and used in any number of passes and pairings:

    text, image = model.text(ids, mask), model.image(pixels)
    cosine = model.features(text) @ model.features(image).T        # ITC
    joint = model.fuse(text, image[hard])                          # ITM, with other images
    joint = model.fuse(State.cat([text, text]), State.cat([image, image[hard]]))

Only when something random is on (dropout or stochastic depth, see ``is_random``) is that not quite what
separate passes would do; ``joint`` is the pass by itself, with one stochastic-depth decision a sample for
both modalities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmerge_cli.errors import UsageError
from vlmerge_cli.model import heads, positions
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.model.embed import TextEmbeddings
from vlmerge_cli.model.experts import Parts
from vlmerge_cli.model.heads import widened
from vlmerge_cli.model.hidden import Joint, State
from vlmerge_cli.model.transformer import Transformer


class Network(nn.Module):
    """A model of the paper's family; its keys are those of the published checkpoints.

    Its numbers are undefined until they are loaded or given start values (``weights.vlmodel.VLModel`` does
    either). Built without memory under ``torch.device("meta")``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        device = torch.get_default_device()
        self.config = config
        self.image_index: Tensor
        self.text_index: Tensor
        self.joint_index: Tensor
        with torch.device("meta"):  # PyTorch's own start values would be thrown away
            self.text_embeddings = TextEmbeddings(config)
            self.token_type_embeddings = nn.Embedding(config.num_token_types, config.width)
            self.transformer = Transformer(config)
            self.relative_position_bias_table: nn.Parameter | None = None
            if config.positions == "relative":
                table = torch.zeros(self.room.num_rows, config.num_layers * config.num_heads)
                self.relative_position_bias_table = nn.Parameter(table)
            for name, part in heads.build(config).items():
                setattr(self, name, part)
        if device.type != "meta":
            self.to_empty(device=device)
        self.set_tables()

    def set_tables(self) -> None:
        """The rows of the relative position table for each pass: computed, never stored; on the model's device."""
        device, text = self.token_type_embeddings.weight.device, self.config.max_text_tokens
        relative = self.config.positions == "relative"
        tables = {
            "image_index": positions.image_index(self.room) if relative else torch.empty(0, 0),
            "text_index": positions.text_index(self.room, text) if relative else torch.empty(0, 0),
            "joint_index": positions.joint_index(self.room, text) if relative else torch.empty(0, 0),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.to(device), persistent=False)

    # --- parts ----------------------------------------------------------------------------------------------

    @property
    def room(self) -> positions.Room:
        """What the relative position table is sized for."""
        return positions.Room(self.config.grid, self.config.text_bias_tokens)

    @property
    def is_random(self) -> bool:
        """Whether two passes over the same input differ now."""
        return self.training and (self.config.drop_path > 0 or self.config.dropout > 0)

    def recompute_activations(self, on: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass and run each block again there."""
        self.transformer.recompute = on

    def _head(self, name: str) -> Any:
        part = getattr(self, name, None)
        if part is None:
            needed = next(head for head, parts in heads.PARTS.items() if name in parts)
            fix = f"build or load it with heads that name {needed!r}"
            raise UsageError(
                f"the model has no {name}: its heads are {', '.join(self.config.heads) or 'none'}", fix=fix
            )
        return part

    def _say(self, name: str, x: Tensor) -> Tensor:
        """What a head says, at least float32 whatever autocast made of it: losses and choices are made of it."""
        return widened(self._head(name)(x))

    # --- below the fusion layers ----------------------------------------------------------------------------

    def text(
        self, ids: Tensor, mask: Tensor | None = None, *,
        keep: Tensor | None = None, drop: Tensor | None = None,
    ) -> State:  # fmt: skip
        """Text to its state: ids (B, T), mask (B, T), 0 or False at padding.

        ``keep`` (layers, 2, B) and ``drop`` (B, T, width) are stochastic depth and dropout as the caller
        drew them; without them the model draws its own.
        """
        embedded = self._embed_text(ids, drop)
        return self._lower("l", embedded, None if mask is None else mask.bool(), keep)

    def image(self, image: Tensor, *, second: bool = False, keep: Tensor | None = None) -> State:
        """Image (B, 3, px, px) in [-1, 1] to its state; ``second``: it is NLVR2's second image."""
        return self._lower("v", self._embed_image(image, second), None, keep)

    def embedded(self, ids: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into layer 0, (B, T, width) and (B, 1 + g², width): ids (B, T), image (B, 3, px, px)."""
        return self._embed_text(ids), self._embed_image(image, False)

    def _embed_text(self, ids: Tensor, drop: Tensor | None = None) -> Tensor:
        room = self.config.max_text_tokens
        if ids.shape[1] > room:
            fix = "cut the text, or build the model with a larger max_text_tokens"
            raise UsageError(f"{ids.shape[1]} text tokens, the model takes {room}", fix=fix)
        words = self.text_embeddings(ids, drop)
        return words + self.token_type_embeddings.weight[0]  # type: ignore[no-any-return]

    def _embed_image(self, image: Tensor, second: bool) -> Tensor:
        px, row = self.config.image_px, 2 if second else 1
        if image.shape[-2:] != (px, px):
            fix = "resize the images, or load the model with another image_px"
            raise UsageError(f"images of {image.shape[-2]}×{image.shape[-1]}, the model takes {px}×{px}", fix=fix)
        if row >= self.config.num_token_types:
            raise UsageError("only a model with the nlvr2 head takes a second image", fix="heads=('nlvr2',)")
        return self.transformer.embed(image) + self.token_type_embeddings.weight[row]  # (B, 1 + g², width)

    def _lower(self, expert: str, embedded: Tensor, mask: Tensor | None, keep: Tensor | None) -> State:
        layers = range(self.config.fusion_layer)
        hidden = self._run_alone(embedded, layers, expert, expert, mask, keep)
        return State(expert, hidden, mask, embedded if self.config.joint_below_fusion else None)

    # --- the fusion layers ----------------------------------------------------------------------------------

    def alone(self, state: State, expert: str | None = None, *, keep: Tensor | None = None) -> Tensor:
        """One modality to the end, by its own expert or by ``vl`` (second ITC path): (B, T, width)."""
        top = range(self.config.fusion_layer, self.config.num_layers)
        x = self._run_alone(state.hidden, top, state.expert, expert or state.expert, state.mask, keep)
        return self.transformer.norm(x)  # type: ignore[no-any-return]

    def fuse(self, text: State, image: State, *, keep: Tensor | None = None) -> Joint:
        """Sample i of the text with sample i of the image, through the layers where they meet."""
        assert (text.expert, image.expert, len(text)) == ("l", "v", len(image)), (text.expert, image.expert)
        last = self.config.num_layers
        if text.embedded is not None and image.embedded is not None:
            return self._meet(text.embedded, image.embedded, text.mask, range(last), keep)
        return self._meet(text.hidden, image.hidden, text.mask, range(self.config.fusion_layer, last), keep)

    def joint(
        self, ids: Tensor, mask: Tensor | None, image: Tensor, *, second: bool = False,
        keep: Tensor | None = None, drop: Tensor | None = None,
    ) -> Joint:  # fmt: skip
        """The joint pass by itself: ids (B, T), mask (B, T), image (B, 3, px, px); noise as in text."""
        keep = self._draw_keep(image) if keep is None else keep
        if self.config.joint_below_fusion:
            text, pixels = self._embed_text(ids, drop), self._embed_image(image, second)
            mask = None if mask is None else mask.bool()
            return self._meet(text, pixels, mask, range(self.config.num_layers), keep)
        words = self.text(ids, mask, keep=keep, drop=drop)
        return self.fuse(words, self.image(image, second=second, keep=keep), keep=keep)

    def forward(self, ids: Tensor, mask: Tensor | None, image: Tensor) -> Joint:
        """The joint pass."""
        return self.joint(ids, mask, image)

    def _run_alone(
        self, x: Tensor, layers: range, modality: str, expert: str, mask: Tensor | None, keep: Tensor | None
    ) -> Tensor:
        num_tokens = x.shape[1]
        index = self.image_index if modality == "v" else self.text_index[:num_tokens, :num_tokens]
        return self._run(x, layers, ((expert, num_tokens),), index, mask, keep)

    def _meet(self, text: Tensor, image: Tensor, mask: Tensor | None, layers: range, keep: Tensor | None) -> Joint:
        """Side by side, text first: as l and v below the fusion layers (if it starts there), then as vl."""
        num_text, num_image = text.shape[1], image.shape[1]
        x = torch.cat([text, image], dim=1)  # (B, T + 1 + g², width)
        mask = None if mask is None else functional.pad(mask, (0, num_image), value=True)
        keep = self._draw_keep(x) if keep is None else keep
        index = self.joint_index_of(num_text)
        fusion = self.config.fusion_layer
        x = self._run(x, range(layers.start, fusion), (("l", num_text), ("v", num_image)), index, mask, keep)
        x = self._run(x, range(fusion, layers.stop), (("vl", num_text + num_image),), index, mask, keep)
        x = self.transformer.norm(x)
        return Joint(x[:, :num_text], x[:, num_text:])

    def _run(
        self, x: Tensor, layers: range, parts: Parts, index: Tensor, mask: Tensor | None, keep: Tensor | None
    ) -> Tensor:
        if not layers:
            return x
        table, bias = self.relative_position_bias_table, None
        if table is not None:
            bias = positions.gather(table, index, layers, self.config.num_heads)  # (layers, heads, T, T)
        keep = self._draw_keep(x) if keep is None else keep
        return self.transformer.run(x, layers, parts, bias, mask, keep)

    def joint_index_of(self, num_text: int) -> Tensor:
        """Rows of the table for ``num_text`` tokens of text, maybe fewer than the model has room for."""
        room = self.config.max_text_tokens
        if num_text == room:
            return self.joint_index
        used = [self.joint_index[:num_text], self.joint_index[room:]]
        rows = torch.cat(used)
        return torch.cat([rows[:, :num_text], rows[:, room:]], dim=1)

    def _draw_keep(self, like: Tensor) -> Tensor | None:
        """Stochastic depth (layers, 2, B): 0 where a sample skips half a block, 1 / (1 - rate) elsewhere."""
        if not self.training or self.config.drop_path == 0:
            return None
        rates = torch.linspace(0, self.config.drop_path, self.config.num_layers, device=like.device)
        kept = 1 - rates[:, None, None]  # (layers, 1, 1)
        return torch.rand(len(rates), 2, len(like), device=like.device).lt(kept).float() / kept

    # --- what the heads say ---------------------------------------------------------------------------------

    def features(self, state: State, *, second: bool = False, keep: Tensor | None = None) -> Tensor:
        """For retrieval and ITC: the first token, projected, of length 1, (B, width); ``second``: by vl."""
        hidden = self.alone(state, "vl" if second else None, keep=keep)
        return self.projected(hidden, state.expert, second=second)

    def projected(self, hidden: Tensor, expert: str, *, second: bool = False) -> Tensor:
        """Features (B, width) of the hidden states (B, T, width) of ``l``'s or ``v``'s tokens at the end."""
        side = "text" if expert == "l" else "image"
        projected = self._say(f"ifm_vl_{side}_proj" if second else f"ifm_{side}_proj", hidden[:, 0])
        return functional.normalize(projected, dim=-1)

    def table(self, mine: Tensor, others: Tensor, *, second: bool = False) -> Tensor:
        """Logits of ITC, scale · mine othersᵀ: features (B, width) and (all, width) to (B, all).

        At a scale of 100 bfloat16 would make them multiples of a quarter and more.
        """
        with torch.autocast(mine.device.type, enabled=False):
            return widened(self.scale(second)) * widened(mine) @ widened(others).T

    def scale(self, second: bool = False) -> Tensor:
        """What cosines of features are multiplied with: exp of the learned logarithm, a scalar."""
        return self._head("logit_vl_scale" if second else "logit_scale").exp()  # type: ignore[no-any-return]

    def pooled(self, joint: Joint) -> Tensor:
        """tanh(dense(text [CLS])), (B, width)."""
        return self._head("pooler")(joint.text)  # type: ignore[no-any-return]

    def itm(self, joint: Joint) -> Tensor:
        """Logits of no match and match, (B, 2)."""
        return self._say("itm_score", self.pooled(joint))

    def mlm(self, hidden: Tensor) -> Tensor:
        """Logits of words for some of ``joint.text``: (..., width) to (..., vocabulary).

        ``model.mlm(joint.text[labels != -100])`` leaves out the words that have no loss.
        """
        return self._say("mlm_score", hidden)

    def vqa(self, joint: Joint) -> Tensor:
        """Logits of answers, (B, num_answers)."""
        return self._say("vqa_classifier", self.pooled(joint))

    def nlvr2(self, first: Joint, second: Joint) -> Tensor:
        """Logits of false and true for a text with two images, (B, 2)."""
        both = torch.cat([self.pooled(first), self.pooled(second)], dim=-1)  # (B, 2·width)
        return self._say("nlvr2_classifier", both)

    def classify(self, image: State, *, keep: Tensor | None = None) -> Tensor:
        """Logits of classes from the mean over all image tokens, (B, num_classes)."""
        pooled = self.alone(image, keep=keep).mean(dim=1)
        return self._say("img_cls_classifier", pooled)

    def segment(self, image: State, *, keep: Tensor | None = None) -> Tensor:
        """Logits of segments for each pixel, (B, num_segments, px, px)."""
        patches = self._say("seg_classifier", self.alone(image, keep=keep)[:, 1:])  # (B, g², num_segments)
        coarse = patches.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
        size = (self.config.image_px, self.config.image_px)
        return functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)


def count_parameters(config: ModelConfig) -> int:
    """Parameters of a model, exactly, without building it in memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in Network(config).parameters())
