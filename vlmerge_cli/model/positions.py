"""The relative position bias: which row of its table serves which pair of tokens, and tables of other sizes.

One table serves all layers: (rows, layers × heads), layer i in columns heads·i ... heads·(i+1)-1. With a
grid of g×g patches and room for T text tokens its rows are, from the top (published layout):

    (2g-1)²   patch to patch, (yq-yk+g-1)·(2g-1) + (xq-xk+g-1)            query minus key
    3         image [CLS] to patch, patch to [CLS], [CLS] to [CLS]
    2         any text query to any image key; any image query to any text key
    2T-3      text to text by distance, -(T-2) ... T-2                    key minus query
    3         text [CLS] to token, token to [CLS], [CLS] to [CLS]
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Room(NamedTuple):
    """What a table is sized for."""

    grid: int  # g, patches along one side
    text_tokens: int  # T

    @property
    def num_patch_rows(self) -> int:
        return (2 * self.grid - 1) ** 2

    @property
    def first_text_row(self) -> int:
        return self.num_patch_rows + 5

    @property
    def num_rows(self) -> int:
        """1,126 for a 14×14 grid and 196 text tokens."""
        return self.first_text_row + 2 * self.text_tokens


def image_index(room: Room) -> Tensor:
    """Rows for the image alone, [CLS] first: (1 + g², 1 + g²) int64."""
    y, x = torch.meshgrid(torch.arange(room.grid), torch.arange(room.grid), indexing="ij")
    y, x = y.flatten(), x.flatten()  # (g²,)
    last = room.grid - 1
    patches = (y[:, None] - y[None] + last) * (2 * room.grid - 1) + x[:, None] - x[None] + last  # (g², g²)
    to_patch, to_cls, cls_to_cls = (room.num_patch_rows + k for k in range(3))
    return _with_cls(patches, to_patch, to_cls, cls_to_cls)


def text_index(room: Room, num_tokens: int) -> Tensor:
    """Rows for ``num_tokens`` ≤ T of text alone, [CLS] first: (num_tokens, num_tokens) int64."""
    place = torch.arange(num_tokens - 1)
    no_distance = room.first_text_row + room.text_tokens - 2
    tokens = no_distance + place[None] - place[:, None]
    to_token, to_cls, cls_to_cls = (room.num_rows - 3 + k for k in range(3))
    return _with_cls(tokens, to_token, to_cls, cls_to_cls)


def joint_index(room: Room, num_tokens: int) -> Tensor:
    """Rows for text followed by the image: (t + 1 + g², t + 1 + g²) int64."""
    text, image = text_index(room, num_tokens), image_index(room)
    text_to_image = torch.full((len(text), len(image)), room.num_patch_rows + 3)
    image_to_text = torch.full((len(image), len(text)), room.num_patch_rows + 4)
    return torch.cat([torch.cat([text, text_to_image], 1), torch.cat([image_to_text, image], 1)])


def gather(table: Tensor, index: Tensor, layers: range, num_heads: int) -> Tensor:
    """The biases of some layers: (rows, columns) and (q, k) to (layers, heads, q, k).

    The columns are turned to rows first: gathering along a contiguous row is 100 times faster on a CPU.
    """
    columns = table[:, layers.start * num_heads : layers.stop * num_heads].t().contiguous()
    return columns.index_select(1, index.flatten()).view(len(layers), num_heads, *index.shape)


def resize_table(table: Tensor, old: Room, new: Room) -> Tensor:
    """A table for another image size or text length: (old rows, columns) to (new rows, columns).

    Patch rows are resized bicubically as a picture of (2g-1)² distances, rows with a [CLS] and across the
    modalities are kept. Text distances keep their own row; those that the old table was too short for take
    the nearest that it had.
    """
    assert len(table) == old.num_rows, (len(table), old)
    patches, rest = table[: old.num_patch_rows], table[old.num_patch_rows :]
    fixed, text, text_cls = rest[:5], rest[5:-3], rest[-3:]
    distances = torch.arange(-(new.text_tokens - 2), new.text_tokens - 1)
    furthest = old.text_tokens - 2
    text = text[distances.clamp(-furthest, furthest) + furthest]
    return torch.cat([resize_patch_rows(patches, old.grid, new.grid), fixed, text, text_cls])


def resize_patch_rows(rows: Tensor, old_grid: int, new_grid: int) -> Tensor:
    """((2g-1)², columns) to ((2g'-1)², columns), bicubic over the two distances."""
    return _resize_square(rows, 2 * old_grid - 1, 2 * new_grid - 1)


def resize_absolute(embedding: Tensor, old_grid: int, new_grid: int) -> Tensor:
    """Learned image positions, (1, 1 + g², width) to (1, 1 + g'², width): [CLS] kept, patches bicubic."""
    patches = _resize_square(embedding[0, 1:], old_grid, new_grid)
    return torch.cat([embedding[0, :1], patches])[None]


def _resize_square(rows: Tensor, old: int, new: int) -> Tensor:
    if old == new:
        return rows
    picture = rows.t().reshape(1, -1, old, old).float()  # (1, columns, old, old)
    resized = functional.interpolate(picture, size=(new, new), mode="bicubic", align_corners=False)
    return resized.view(-1, new * new).t().to(rows.dtype)


def _with_cls(inner: Tensor, from_cls: int, to_cls: int, cls_to_cls: int) -> Tensor:
    """Put [CLS] before the tokens of a square of rows."""
    size = len(inner) + 1
    index = torch.empty(size, size, dtype=torch.int64)
    index[1:, 1:] = inner
    index[0, :], index[:, 0], index[0, 0] = from_cls, to_cls, cls_to_cls
    return index
