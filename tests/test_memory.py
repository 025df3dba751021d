"""What is imported, and how much memory a whole process takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import expert_key, run_python, save, tiny

LIMIT_MIB = 128

# Runs the command line in a fresh interpreter in which some imports are refused, then reports on itself: its peak
# by VmHWM, because getrusage counts what the parent had when it forked.
CHILD = """
import json, sys
refused = json.loads(sys.argv.pop(1))
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
from vlmerge_cli.cli import app
try:
    app()
except SystemExit as end:
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({"code": end.code, "peak_mib": int(line.split()[1]) / 1024}), file=sys.stderr)
"""


def child(*arguments: object, refused: tuple[str, ...] = ("torch",)) -> dict:
    done = run_python(CHILD, json.dumps(refused), *arguments)
    assert done.stderr, done.stdout
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] in (0, None), done.stderr
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("merge", "--help"),
        ("inspect", "{ckpt}"),
        ("layouts", "{ckpt}"),
        ("distance", "{ckpt}"),
        ("merge", "{ckpt}"),
        ("merge", "{ckpt}", "-m", "arithmetic", "--base", "{folder}/base.safetensors"),
        ("merge", "{ckpt}", "-m", "regmean", "--device", "cpu"),
    ],
    ids=" ".join,
)
def test_no_torch(arguments: tuple[str, ...], ckpt: Path) -> None:
    child(*(part.format(ckpt=ckpt, folder=ckpt.parent) for part in arguments))


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("inspect", "{ckpt}"), ("merge", "--help"), ("merge", "{ckpt}", "--dry-run"), ("distance", "--help")],
    ids=" ".join,
)
def test_what_answers_at_once_imports_little(arguments: tuple[str, ...], ckpt: Path) -> None:
    heavy = ("torch", "numpy", "scipy", "huggingface_hub", "ml_dtypes", "safetensors", "pydantic")
    child(*(part.format(ckpt=ckpt) for part in arguments), refused=heavy)


def test_the_refusal_works(ckpt: Path) -> None:
    """The tests above can fail."""
    done = run_python(CHILD, json.dumps(["numpy"]), "merge", ckpt)
    assert "numpy was imported" in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["code"] == 1


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 300 MB: three layers, slots of 9 MB, and outside the blocks one tensor of 120 MB."""
    folder = tmp_path_factory.mktemp("big")
    tensors = tiny(layers=3, top=2, width=768, hidden=3072) | {
        "text_embeddings.large": np.ones((40_000, 768), np.float32)
    }
    return save(folder / "ckpt.safetensors", tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("merge", "{ckpt}", "-o", "{out}"),
        ("merge", "{ckpt}", "-o", "{out}", "--threads", "4"),
        ("merge", "{ckpt}", "-o", "{out}", "--dtype", "bfloat16"),
        ("merge", "{ckpt}", "-o", "{out}", "--dtype", "float64"),
        ("merge", "{ckpt}", "-o", "{folder}", "--max-shard-size", "50MB"),
        ("distance", "{ckpt}"),
        ("distance", "{ckpt}", "--by", "slot", "--pair", "all", "--threads", "4"),
        ("inspect", "{ckpt}"),
    ],
    ids=" ".join,
)
def test_peak_memory(arguments: tuple[str, ...], big: Path, tmp_path: Path) -> None:
    assert big.stat().st_size > 300e6
    found = child(*(part.format(ckpt=big, out=tmp_path / "o.safetensors", folder=tmp_path / "o") for part in arguments))
    assert found["peak_mib"] < LIMIT_MIB


@pytest.mark.slow
def test_peak_memory_of_equal_integers(tmp_path: Path) -> None:
    same = np.arange(18_000_000)
    tensors = tiny() | {expert_key(0, "norm1.bias", e): same for e in ("v", "l")}
    found = child("merge", save(tmp_path / "c.safetensors", tensors))
    assert found["peak_mib"] < LIMIT_MIB
