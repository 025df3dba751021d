"""What the published code computed, reproduced through the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import ROOT, load, ok, read_raw, run

GOLDENS = Path(os.environ.get("VLMERGE_GOLDENS", ROOT / "fixtures" / "goldens"))
INPUTS = GOLDENS / "merge"  # merge_extra refers to it
TASKS = {"irtr": "retrieval", "vqa": "vqa", "nlvr2": "nlvr2"}


def expected() -> list[Any]:
    found = []
    for folder in ("merge", "merge_extra"):
        manifest = GOLDENS / folder / "manifest.json"
        if manifest.exists():
            entries = json.loads(manifest.read_text())["expected"]
            found += [pytest.param(manifest.parent / name, entry, id=name) for name, entry in entries.items()]
    return found


def arguments(entry: dict[str, Any]) -> list[str]:
    """The command line that a manifest entry describes."""
    found = ["-m", entry["method"]]
    for field, flag in (("alpha", "--alpha"), ("gamma", "--gamma"), ("lambda", "--lambda")):
        if field in entry:
            found += [flag, str(entry[field])]
    for field, flag in (("grams", "--grams"), ("w0", "--base")):
        if field in entry:
            found += [flag, str(INPUTS / entry[field])]
    if entry["method"] == "arithmetic" and "AS CODED" in entry["source"]:
        found.append("--sequential")
    if "task" in entry:
        found += ["--experts-for", TASKS[entry["task"]]]
    return found


def test_the_goldens_are_there() -> None:
    """An empty folder would leave the tests below with nothing to check."""
    assert expected(), f"no manifest in {GOLDENS}"


@pytest.mark.parametrize(("golden", "entry"), expected())
def test_golden(golden: Path, entry: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    ok("merge", INPUTS / entry["input"], "-o", out, "--no-sync", *arguments(entry))
    check(out, golden, INPUTS / entry["input"])


@pytest.mark.parametrize(("golden", "entry"), [p for p in expected() if p.values[1]["method"] == "regmean"])
def test_golden_regmean_in_float64(golden: Path, entry: dict[str, Any], tmp_path: Path) -> None:
    """Linear weights to 1e-10; what the reference averages in float32 to 1e-6."""
    out = tmp_path / "out.safetensors"
    ok("merge", INPUTS / entry["input"], "-o", out, "--no-sync", "--dtype", "float64", *arguments(entry))
    ours, theirs = load(out), load(golden)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key].shape == value.shape, key
        assert ours[key].dtype == (np.int64 if value.dtype.kind == "i" else np.float64), key
        limit = 1e-10 if value.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=limit, err_msg=key)
    deep = [key for key, value in theirs.items() if value.dtype == np.float64]
    assert deep or "custom_ln" in golden.name, "no linear weight was merged"


@pytest.mark.parametrize(
    "name",
    [
        "interpolation_alpha0.75.safetensors",
        "regmean_gamma0.9.safetensors",
        "arithmetic_code_lambda0.5.safetensors",
    ],
)
def test_golden_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    found = [p for p in expected() if p.id == name]
    if not found:
        pytest.skip(f"{GOLDENS} has no {name}")
    golden, entry = found[0].values
    out = tmp_path / "out.safetensors"
    done = run("merge", INPUTS / entry["input"], "-o", out, *arguments(entry))
    assert done.returncode == 0, done.stderr
    check(out, golden, INPUTS / entry["input"])


def check(out: Path, golden: Path, source: Path) -> None:
    """Same keys, shapes and (the reference's float64 aside) types; 1e-6; what was only copied bit for bit."""
    ours, theirs, before = load(out), load(golden), read_raw(source)
    assert set(ours) == set(theirs)
    raw = read_raw(out)
    for key, value in theirs.items():
        assert ours[key].shape == value.shape, key
        assert ours[key].dtype == (np.float32 if value.dtype.kind == "f" else value.dtype), key
        np.testing.assert_allclose(ours[key], value.astype(ours[key].dtype), rtol=0, atol=1e-6, err_msg=key)
        if key in before:
            assert raw[key] == before[key], key
