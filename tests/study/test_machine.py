from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from vlmerge_cli.study.machine import machine

ROOT = Path(__file__).parents[2]


def test_the_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/vlmerge", "study", "--out", "my runs"])
    facts = machine("cpu")
    assert facts["vlmerge"] == version("vlmerge")
    assert facts["command"] == "vlmerge study --out 'my runs'"
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert head.startswith(facts["commit"].removesuffix("-dirty"))


def test_a_notebook_has_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ipykernel_launcher.py", "-f", "x.json"])
    assert "command" not in machine("cpu")
