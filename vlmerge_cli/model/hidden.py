"""What goes up and comes out of the layers: one modality below the fusion layers, both at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """One modality below the fusion layers.

    ``expert`` is v or l; ``hidden`` (B, T, width) comes out of layer F-1; ``mask`` (B, T) is False at
    padding (None: there is none). ``embedded`` (B, T, width) goes into layer 0: it is kept only where the
    joint pass starts there.
    """

    expert: str
    hidden: Tensor
    mask: Tensor | None = None
    embedded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, rows: Tensor | slice) -> State:
        """Some of the samples, in any order and as often as wanted."""
        mask, embedded = (None if x is None else x[rows] for x in (self.mask, self.embedded))
        return State(self.expert, self.hidden[rows], mask, embedded)

    @staticmethod
    def cat(states: list[State]) -> State:
        """The samples of several states of one modality, one after the other."""
        first = states[0]
        assert len({state.expert for state in states}) == 1, [state.expert for state in states]
        mask = None if first.mask is None else torch.cat([_given(state.mask) for state in states])
        embedded = None if first.embedded is None else torch.cat([_given(state.embedded) for state in states])
        return State(first.expert, torch.cat([state.hidden for state in states]), mask, embedded)


class Joint(NamedTuple):
    """Both modalities after the joint pass and the final norm: (B, T, width) and (B, 1 + g², width)."""

    text: Tensor
    image: Tensor


def _given(x: Tensor | None) -> Tensor:
    assert x is not None, "states with and without a mask cannot be joined"
    return x
