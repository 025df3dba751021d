from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from vlmerge_cli.cli import app

RUN = CliRunner()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    weight = torch.arange(6.0).view(2, 3)
    torch.save({"state_dict": {"model.a": weight, "model.b": weight}, "epoch": 3}, tmp_path / "old.ckpt")
    return tmp_path / "old.ckpt"


def test_it_says_what_it_did(source: Path) -> None:
    target = source.with_name("new.safetensors")
    result = RUN.invoke(app, ["convert", str(source), str(target), "--no-sync"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{target}: 2 tensors, 48 B",
        "  unwrapped   state_dict model.",
        "  was shared  a, b",
        "  left out    epoch (int)",
    ]
    assert torch.equal(load_file(target)["b"], torch.arange(6.0).view(2, 3))


def test_json_has_the_same_facts(source: Path) -> None:
    target = source.with_name("new.safetensors")
    result = RUN.invoke(app, ["convert", str(source), str(target), "--no-sync", "--json"])
    found = json.loads(result.stdout)
    assert found["num_tensors"] == 2
    assert found["tied"] == [["a", "b"]]
    assert found["left_out"] == {"epoch": "int"}


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("old.ckpt", 2, "exists"), ("odl.ckpt", 1, "did you mean 'old.ckpt'?"), ("new.safetensors", 1, "already")],
)
def test_errors_are_one_line_and_a_code(source: Path, name: str, code: int, said: str) -> None:
    target = source.with_name("new.safetensors")
    target.write_bytes(b"mine")
    other = target if code == 2 else source.with_name("other.safetensors")
    result = RUN.invoke(app, ["convert", str(source.with_name(name)), str(other), "--no-sync"])
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert target.read_bytes() == b"mine"
