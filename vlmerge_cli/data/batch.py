"""What a model is fed: one frozen set of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from vlmerge_cli.data.bad import Problem


@dataclass(frozen=True)
class Batch:
    """B samples; a field that the data has not is None.

    ``row`` is a sample's place in the whole run, step * global batch + slot, in training; its place in the
    data set in evaluation, where ``valid`` is False for what only fills the last batch up. Anything random
    about a sample (dropout, negatives) can be keyed by ``row`` and does not then depend on the number of
    processes.
    """

    keys: tuple[str, ...]  # names of the samples, for messages
    row: Tensor  # (B,) int64
    index: Tensor  # (B,) int64, place in its data set
    valid: Tensor  # (B,) bool
    image: Tensor | None = None  # (B, 3, S, S) uint8, float32 in [-1, 1] from a Loader
    image2: Tensor | None = None  # the same for the right image of a statement
    image_id: Tensor | None = None  # (B,) int64, equal for captions of one image
    text: Tensor | None = None  # (B, L) int64
    text_mask: Tensor | None = None  # (B, L) bool, True for real tokens, [CLS] and [SEP] included
    masked_text: Tensor | None = None  # (B, L) int64, words replaced for MLM
    masked_labels: Tensor | None = None  # (B, L) int64, -100 where nothing is to be predicted
    target: Tensor | None = None  # (B, answers) float32 soft scores; (B,) or (B, S, S) int64 labels
    augment_codes: Tensor | None = None  # (B, images, N) int64, RandAugment yet to be done
    augment_amounts: Tensor | None = None  # (B, images, N) float32
    erase_box: Tensor | None = None  # (B, 5) int64, random erasing yet to be done
    mix_box: Tensor | None = None  # (B, 4) int64, mixup or CutMix yet to be done
    mix_share: Tensor | None = None  # (B,) float32, how much of the loss is for ``target``, the rest for the other
    other_target: Tensor | None = None  # (B,) int64, label of the sample that this one is mixed with
    problems: tuple[Problem, ...] = ()  # samples that could not be read and were replaced

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def double(self) -> Batch:
        """Images in double precision."""
        image, image2 = (None if x is None else x.double() for x in (self.image, self.image2))
        return replace(self, image=image, image2=image2)

    def pin_memory(self) -> Batch:
        return self._each(lambda tensor: tensor.pin_memory())

    def split(self, num: int) -> Iterator[Batch]:
        """``num`` equal parts in order, for gradient accumulation."""
        assert len(self) % num == 0, f"{len(self)} samples do not split into {num} parts"
        size = len(self) // num
        for start in range(0, len(self), size):
            part = self._each(lambda tensor, at=start: tensor[at : at + size])  # type: ignore[misc]
            yield replace(part, keys=self.keys[start : start + size], problems=())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **changed)
