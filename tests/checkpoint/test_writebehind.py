from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import read_raw
from vlmerge_cli.checkpoint import writebehind, writer
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writebehind import WriteBehind, joined
from vlmerge_cli.checkpoint.writer import create


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What the system is told, window after window of 100 bytes."""
    monkeypatch.setattr(writebehind, "WINDOW_BYTES", 100)
    told: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, size, what: told.append((fd, start, start + size)))
    return told


def test_extents_are_joined_within_their_file() -> None:
    extents = [(1, 4, 6), (0, 0, 4), (0, 4, 9), (1, 0, 3), (0, 10, 11)]
    assert list(joined(extents)) == [(0, 0, 9), (0, 10, 11), (1, 0, 3), (1, 4, 6)]
    assert list(joined([])) == []


def test_each_window_is_handed_on_once_when_it_is_full(advised: list[tuple[int, ...]]) -> None:
    behind = WriteBehind(give_back=False)
    for start in range(0, 1010, 10):
        behind.wrote(7, start, start + 10)
    assert advised == [(7, start, start + 100) for start in range(0, 1000, 100)]


def test_older_windows_of_a_large_output_are_given_back_in_order(advised: list[tuple[int, ...]]) -> None:
    behind = WriteBehind(give_back=True)
    for start in range(0, 1000, 100):
        behind.wrote(7, start, start + 100)
    started = [start for _, start, _ in advised]
    assert started[: writebehind.NUM_KEPT] == [0, 100, 200, 300]
    assert started[writebehind.NUM_KEPT :] == [400, 0, 500, 100, 600, 200, 700, 300, 800, 400, 900, 500]


@pytest.mark.parametrize(("sync", "large", "behind"), [(True, False, True), (False, True, True), (False, False, False)])
def test_which_outputs_are_written_behind(
    sync: bool,
    large: bool,
    behind: bool,
    advised: list[tuple[int, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "is_large", lambda num_bytes: large)
    data = np.random.default_rng(0).bytes(1000)
    with create(Target(tmp_path / "a.safetensors", sync=sync), {"x": Spec("U8", (1000,))}, {}) as output:
        for start in range(0, 1000, 50):
            output.write("x", start, data[start : start + 50])
    assert read_raw(tmp_path / "a.safetensors")["x"].data == data
    assert len(advised) == (0 if not behind else 10 + large * (10 - writebehind.NUM_KEPT))


def test_a_system_without_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writebehind, "WINDOW_BYTES", 1)
    monkeypatch.delattr(os, "posix_fadvise")
    with create(Target(tmp_path / "a.safetensors"), {"x": Spec("U8", (3,))}, {}) as output:
        output.write("x", 0, b"abc")
    assert read_raw(tmp_path / "a.safetensors")["x"].data == b"abc"


def test_large_is_a_share_of_the_memory() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert writebehind.is_large(memory // 20)
    assert not writebehind.is_large(memory // 30)
