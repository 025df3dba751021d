from __future__ import annotations

import pytest
import torch

from vlmerge_cli.model import positions
from vlmerge_cli.model.positions import Room

BASE = Room(14, 196)


def test_rows_of_the_published_tables() -> None:
    assert [Room(px // 16, 196).num_rows for px in (224, 384, 480)] == [1126, 2606, 3878]
    assert Room(2, 8).num_rows == 30


def test_image_rows_are_query_minus_key() -> None:
    index = positions.image_index(BASE)
    assert index.shape == (197, 197)
    for query, key in [(0, 0), (5, 80), (195, 3), (13, 14)]:
        dy, dx = query // 14 - key // 14, query % 14 - key % 14
        assert index[1 + query, 1 + key] == (dy + 13) * 27 + dx + 13
    assert (index[0, 1:] == 729).all()
    assert (index[1:, 0] == 730).all()
    assert index[0, 0] == 731


def test_text_rows_are_key_minus_query() -> None:
    index = positions.text_index(BASE, 40)
    assert index[1, 1] == 928
    assert index[3, 10] == 928 + 7
    assert index[10, 3] == 928 - 7
    assert (index[0, 1:] == 1123).all()
    assert (index[1:, 0] == 1124).all()
    assert index[0, 0] == 1125
    used = set(index.flatten().tolist())
    assert used == set(range(890, 967)) | {1123, 1124, 1125}


def test_joint_rows_are_text_first_with_two_rows_across() -> None:
    index = positions.joint_index(BASE, 40)
    assert torch.equal(index[:40, :40], positions.text_index(BASE, 40))
    assert torch.equal(index[40:, 40:], positions.image_index(BASE))
    assert (index[:40, 40:] == 732).all()
    assert (index[40:, :40] == 733).all()


def test_the_longest_text_uses_every_text_row() -> None:
    room = Room(2, 8)
    assert set(positions.text_index(room, 8).flatten().tolist()) == set(range(room.first_text_row, room.num_rows))


def test_gather_takes_the_columns_of_its_layers() -> None:
    room = Room(2, 8)
    table = torch.randn(room.num_rows, 12)  # 4 layers of 3 heads
    index = positions.joint_index(room, 5)
    bias = positions.gather(table, index, range(1, 3), num_heads=3)
    assert bias.shape == (2, 3, 10, 10)
    for layer, head, query, key in [(1, 0, 0, 9), (1, 2, 7, 3), (2, 1, 4, 4)]:
        assert bias[layer - 1, head, query, key] == table[index[query, key], layer * 3 + head]


def test_resize_to_the_same_size_changes_nothing() -> None:
    table = torch.randn(Room(4, 8).num_rows, 6)
    assert torch.equal(positions.resize_table(table, Room(4, 8), Room(4, 8)), table)


def test_resize_keeps_cross_and_text_rows_and_enlarges_patches_bicubically() -> None:
    old, new = Room(4, 8), Room(6, 8)
    table = torch.randn(old.num_rows, 6)
    resized = positions.resize_table(table, old, new)
    assert resized.shape == (new.num_rows, 6)
    assert torch.equal(resized[new.num_patch_rows :], table[old.num_patch_rows :])
    picture = table[: old.num_patch_rows, 2].view(1, 1, 7, 7)
    enlarged = torch.nn.functional.interpolate(picture, size=(11, 11), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[: new.num_patch_rows, 2], enlarged.flatten())


def test_resize_of_a_smooth_table_stays_on_its_plane() -> None:
    """Enlarging a linear slope gives that slope, away from the border and up to the kernel's ripple."""
    old, new = Room(8, 4), Room(12, 4)
    slope = torch.arange(15.0).repeat(15)
    table = torch.cat([slope, torch.zeros(old.num_rows - 225)])[:, None]
    row = positions.resize_table(table, old, new)[: new.num_patch_rows, 0].view(23, 23)[11]
    expected = (torch.arange(23) + 0.5) * 15 / 23 - 0.5
    torch.testing.assert_close(row[4:-4], expected[4:-4], atol=0.06, rtol=0)


@pytest.mark.parametrize("text_tokens", [3, 6, 8, 20])
def test_resize_keeps_each_text_distance(text_tokens: int) -> None:
    old, new = Room(2, 8), Room(2, text_tokens)
    table = torch.randn(old.num_rows, 4)
    resized = positions.resize_table(table, old, new)
    both = min(text_tokens, 8)
    before = table[positions.joint_index(old, both)]
    after = resized[positions.joint_index(new, both)]
    assert torch.equal(before, after)
    if text_tokens > 8:
        far = positions.text_index(new, text_tokens)[1, -1]
        assert torch.equal(resized[far], table[positions.text_index(old, 8)[1, -1]])


def test_absolute_positions_keep_cls() -> None:
    embedding = torch.randn(1, 17, 5)
    assert torch.equal(positions.resize_absolute(embedding, 4, 4), embedding)
    resized = positions.resize_absolute(embedding, 4, 6)
    assert resized.shape == (1, 37, 5)
    assert torch.equal(resized[0, 0], embedding[0, 0])
