"""Standard streams that are closed, full or of another encoding, and names that would steer a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import environment, fails, ok, read_raw, run, save, tiny
from vlmerge_cli import console

ESCAPES = "a\x1b]0;title\x07\x9b2J\rb\u202ec\u200bd\ud800"


def shell(text: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """``vlmerge TEXT`` as a shell runs it, redirections included."""
    line = f"{shlex.quote(sys.executable)} -m vlmerge_cli {text}"
    return subprocess.run(line, shell=True, cwd=folder, env=environment(**env), text=True, capture_output=True)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(closed: str, tmp_path: Path) -> None:
    save(tmp_path / "c.safetensors", tiny())
    ok("merge", tmp_path / "c.safetensors", "-o", tmp_path / "right.safetensors")
    done = shell(f"merge c.safetensors -o out.safetensors {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_raw(tmp_path / "out.safetensors") == read_raw(tmp_path / "right.safetensors")


def test_an_error_with_every_stream_closed_keeps_its_code(tmp_path: Path) -> None:
    assert shell("merge gone.safetensors >&- 2>&-", tmp_path).returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--version", "--help", "inspect c.safetensors", "inspect c.safetensors --json"])
def test_a_full_stdout_is_one_line(arguments: str, tmp_path: Path) -> None:
    save(tmp_path / "c.safetensors", tiny())
    done = shell(f"{arguments} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert "cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["utf-8", "C", "ascii"],
)
@pytest.mark.parametrize("name", [b"b\xffd.safetensors", "é.safetensors".encode()])
def test_names_of_any_bytes(env: dict[str, str], name: bytes, tmp_path: Path) -> None:
    save(tmp_path / os.fsdecode(name), tiny())
    for arguments in (["inspect", os.fsdecode(name)], ["merge", os.fsdecode(name), "-o", "out"]):
        done = run(*arguments, cwd=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_what_steers_a_terminal_is_shown_escaped() -> None:
    assert console.printable(ESCAPES) == "a\\x1b]0;title\\x07\\x9b2J\\rb\\u202ec\\u200bd\\ud800"
    assert console.printable("é 漢字 ± → 😀\nx") == "é 漢字 ± → 😀\nx"


def test_keys_of_a_file_steer_no_terminal(tmp_path: Path) -> None:
    text = ESCAPES.removesuffix("\ud800")
    path = save(tmp_path / "c.safetensors", {**tiny(), f"transformer.blocks.1.{text}": np.ones(2, np.float32)})
    found = ok("inspect", path)
    message = fails(1, "merge", path)
    shown = found.out + found.err + message
    assert "\\x1b]0;title" in message
    assert not [sign for sign in shown if sign != "\n" and (ord(sign) < 32 or sign in "\x7f\x9b\u202e\u200b")]


def test_names_without_end_are_cut_in_the_middle(tmp_path: Path) -> None:
    key = f"transformer.blocks.1.{'x' * 70_000}.end"
    message = fails(1, "merge", save(tmp_path / "c.safetensors", {**tiny(), key: np.ones(2, np.float32)}))
    assert len(message) < 4 * console.MOST_OF_A_LINE
    assert " [...] " in message
    assert "xxx.end" in message
