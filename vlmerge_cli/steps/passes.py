"""The passes of one training step, each computed once however many objectives look at it.

Where nothing in the model is random, the layers below fusion see an image or a text once and every objective
takes their states. With dropout or stochastic depth each pass draws its own noise, as separate passes would,
keyed by sample and purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.model.hidden import Joint, State
from vlmerge_cli.steps.across_ranks import Gradients, gather, gather_state
from vlmerge_cli.steps.keyed_random import Noise
from vlmerge_cli.weights.vlmodel import VLModel


@dataclass(frozen=True)
class Features:
    """Of length 1, (B, width) each: a text's and an image's."""

    text: Tensor
    image: Tensor


@dataclass
class Passes:
    """What objectives ask for. ``step`` counts optimiser steps of the phase, ``progress`` is it in [0, 1]."""

    model: VLModel
    batch: Batch
    noise: Noise
    progress: float
    gradients: Gradients = "all"
    _done: dict[Any, Any] = field(default_factory=dict)

    @property
    def text(self) -> State:
        """The text through its own expert."""
        found: State = self._once("text", lambda: self._read(self._given(self.batch.text), "text"))
        return found

    @property
    def image(self) -> State:
        """The image through its own expert."""

        def compute() -> State:
            return self.model.image(self._given(self.batch.image), keep=self.depth("image"))

        found: State = self._once("image", compute)
        return found

    def features(self, second: bool) -> Features:
        """Of this rank's samples; ``second``: through the vl experts of the top layers."""

        def compute() -> Features:
            texts = self.model.features(self.text, second=second, keep=self.depth("text"))
            return Features(texts, self.model.features(self.image, second=second, keep=self.depth("image")))

        return self._once(("features", second), compute)  # type: ignore[no-any-return]

    def all_features(self, second: bool) -> Features:
        """Of all ranks' samples."""

        def compute() -> Features:
            mine = self.features(second)
            return Features(gather(mine.text, self.gradients), gather(mine.image, self.gradients))

        return self._once(("all features", second), compute)  # type: ignore[no-any-return]

    def matched(self) -> Joint:
        """Each text with its own image."""
        if not self.model.is_random:
            return self.model.fuse(self.text, self.image)
        return self._joint(self._given(self.batch.text), self._mask, self._given(self.batch.image), "matched")

    def matched_second(self) -> Joint:
        """Each statement with its second image; a pass of its own, as the first is."""
        ids, image2 = self._given(self.batch.text), self._given(self.batch.image2)
        if not self.model.is_random:
            return self.model.fuse(self.text, self.model.image(image2, second=True))
        return self._joint(ids, self._mask, image2, "matched second", second=True)

    def masked(self) -> Joint:
        """Each masked text with its own image."""
        ids = self._given(self.batch.masked_text)
        if not self.model.is_random:
            return self.model.fuse(self._read(ids, "masked"), self.image)
        return self._joint(ids, self._mask, self._given(self.batch.image), "masked")

    def mismatched(self, other_image: Tensor, other_text: Tensor) -> tuple[Joint, Joint]:
        """Each text with an image, and each image with a text, from anywhere in the global batch: (B,) places."""
        if not self.model.is_random:
            texts, images = gather_state(self.text), gather_state(self.image)
            return (
                self.model.fuse(self.text, images[other_image]),
                self.model.fuse(texts[other_text], self.image),
            )
        ids, image = self._given(self.batch.text), self._given(self.batch.image)
        return (
            self._joint(ids, self._mask, gather(image)[other_image], "other image"),
            self._joint(gather(ids)[other_text], gather(self._mask)[other_text], image, "other text"),
        )

    # --- parts ---

    @property
    def _mask(self) -> Tensor:
        return self._given(self.batch.text_mask)

    def _read(self, ids: Tensor, purpose: str) -> State:
        return self.model.text(ids, self._mask, keep=self.depth(purpose), drop=self._drop(purpose, ids))

    def _joint(self, ids: Tensor, mask: Tensor, image: Tensor, purpose: str, second: bool = False) -> Joint:
        keep, drop = self.depth(purpose), self._drop(purpose, ids)
        return self.model.joint(ids, mask, image, second=second, keep=keep, drop=drop)

    def depth(self, purpose: str) -> Tensor | None:
        """Stochastic depth of a pass, None where there is none."""
        if not self.model.is_random:
            return None
        config = self.model.config
        return self.noise.depth(f"depth of {purpose}", config.drop_path, config.num_layers)

    def _drop(self, purpose: str, ids: Tensor) -> Tensor | None:
        if not self.model.is_random:
            return None
        config = self.model.config
        return self.noise.dropout(f"dropout of {purpose}", config.dropout, ids.shape[1], config.width)

    def _once(self, name: Any, compute: Any) -> Any:
        if name not in self._done:
            self._done[name] = compute()
        return self._done[name]

    @staticmethod
    def _given(tensor: Tensor | None) -> Tensor:
        assert tensor is not None, "the batch lacks a field that the objective needs"
        return tensor


@dataclass(frozen=True)
class Outcome:
    """An objective's loss on this rank, such that the mean of all ranks' is the loss of the global batch.

    ``values`` are shown beside it (an accuracy); they too are averaged over ranks.
    """

    loss: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where whole is 0."""
    return torch.where(whole > 0, part / whole.clamp(min=1), torch.zeros_like(part))
