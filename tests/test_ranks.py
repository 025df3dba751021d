"""Names of torchrun that something else has left in the environment: a process that it did not start is alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import ok, vlmerge
from vlmerge_cli import ranks

LEFT_OVER = [
    {"RANK": "1"},
    {"RANK": "abc"},
    {"RANK": "", "WORLD_SIZE": ""},
    {"WORLD_SIZE": "2"},
    {"WORLD_SIZE": "two", "RANK": "x"},
    {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"},
    {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
]


@pytest.mark.parametrize("left", LEFT_OVER, ids=str)
def test_what_a_cluster_left_is_not_waited_for(
    left: dict[str, str], ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ok("inspect", ckpt).out
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    found = vlmerge("inspect", ckpt)
    assert (found.code, found.out) == (0, right)
    assert ("torchrun did not start this" in found.err) == (left.get("WORLD_SIZE", "") != "")
    ok("merge", ckpt, "-o", tmp_path / "o.safetensors")
    assert (tmp_path / "o.safetensors").exists()


def test_torchrun_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert (ranks.rank(), ranks.world_size(), ranks.local_rank(), ranks.is_main()) == (1, 2, 0, False)
    assert not ranks.is_left_over()


def test_a_lost_connection_is_another_process_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4241.")
    assert ranks.peer_ended(lost) == ""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.peer_ended(lost).startswith("another process of this run has ended")
    assert ranks.peer_ended(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""
    assert ranks.peer_ended(ValueError("Connection closed by peer")) == ""
