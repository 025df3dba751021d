"""A new distance is one file and one line: everything that shows distances shows it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import fails, ok, save, tiny
from vlmerge_cli.metrics import METRICS, Metric


@dataclass(frozen=True)
class Farthest:
    """max |x - y|."""

    most: float = 0.0

    @classmethod
    def of(cls, x: Any, y: Any) -> Farthest:
        return cls(float(abs(x - y).max()))

    def __add__(self, other: Farthest) -> Farthest:
        return Farthest(max(self.most, other.most))


@pytest.fixture
def _farthest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "linf", Metric("L∞", 3, "largest difference", f"{__name__}:Farthest", "most"))


@pytest.mark.usefixtures("_farthest")
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_of_its_own(threads: int, tmp_path: Path) -> None:
    tensors = tiny()
    ckpt = save(tmp_path / "ckpt.safetensors", tensors)
    differences = {
        key: np.abs(value.astype(np.float64) - tensors[key.replace(".v.", ".l.")].astype(np.float64)).max()
        for key, value in tensors.items()
        if ".v." in key and key.replace(".v.", ".l.") in tensors
    }
    work = ("distance", ckpt, "--threads", threads)
    document = ok(*work, "--json").document
    assert document["linf"] == pytest.approx(max(differences.values()), rel=1e-6)
    for row in document["rows"]:
        number = row["at"].removeprefix("layer ")
        wanted = max(value for key, value in differences.items() if f".blocks.{number}." in key)
        assert row["linf"] == pytest.approx(wanted, rel=1e-6)
    assert "L∞" in ok(*work).out
    rows = list(csv.DictReader(io.StringIO(ok(*work, "--csv", "-").out)))
    assert float(rows[0]["linf"]) == document["linf"]
    assert "linf of v,l is" in fails(3, *work, "--fail-above", "linf=0")
    ok(*work, "--report", tmp_path / "report")
    assert "L∞" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_sums_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "norm", Metric("‖x‖²", 3, "squared norm of the first", "pairwise", "xx"))
    tensors = tiny()
    document = ok("distance", save(tmp_path / "ckpt.safetensors", tensors), "--json").document
    wanted = sum(
        float((value.astype(np.float64) ** 2).sum())
        for key, value in tensors.items()
        if ".v." in key and key.replace(".v.", ".l.") in tensors
    )
    assert document["norm"] == pytest.approx(wanted, rel=1e-6)
