from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import expert_key, fails, ok, save, tiny, vlmerge


def test_json_has_the_whole_at_its_top(ckpt: Path) -> None:
    document = ok("distance", ckpt, "--json").document
    assert document["pair"] == ["v", "l"]
    for name in ("l2", "cosine", "ssd", "tssd"):
        assert 0 < document[name] == document["pairs"][0][name]
    assert [row["at"] for row in document["rows"]] != []
    assert {row["at"] for row in document["rows"]} == {"layer 0", "layer 1", "layer 2"}


def test_all_pairs(ckpt: Path) -> None:
    document = ok("distance", ckpt, "--json", "--pair", "all").document
    assert [one["pair"] for one in document["pairs"]] == [["v", "l"], ["v", "vl"], ["l", "vl"]]
    assert sum(row["pair"] == ["v", "vl"] for row in document["rows"]) == 1
    again = ok("distance", ckpt, "--json", "--pair", "vl,v", "--pair", "v,vl").document
    assert [one["pair"] for one in again["pairs"]] == [["v", "vl"]]


@pytest.mark.parametrize("by", ["layer", "module", "slot"])
def test_csv(by: str, ckpt: Path, tmp_path: Path) -> None:
    assert ok("distance", ckpt, "--by", by, "--csv", tmp_path / "d.csv").out != ""
    text = (tmp_path / "d.csv").read_text()
    assert ok("distance", ckpt, "--by", by, "--csv", "-").out.rstrip("\n") == text.rstrip("\n")
    rows = list(csv.DictReader(io.StringIO(text)))
    document = ok("distance", ckpt, "--by", by, "--json").document
    assert rows[0]["at"] == "all"
    assert [float(row["tssd"]) for row in rows] == [document["tssd"], *(row["tssd"] for row in document["rows"])]
    assert {row["pair"] for row in rows} == {"v-l"}


def test_the_table_shows_the_worst_first(ckpt: Path) -> None:
    out = ok("distance", ckpt).out
    document = ok("distance", ckpt, "--json").document
    places = [out.index(row["at"]) for row in document["rows"]]
    assert places == sorted(places)
    assert "TSSD" in out


def test_a_gate(ckpt: Path) -> None:
    tssd = ok("distance", ckpt, "--json").document["tssd"]
    ok("distance", ckpt, "--fail-above", f"tssd={tssd!r}")
    ok("distance", ckpt, "--fail-above", "tssd=1", "--fail-above", "l2=1e9")
    message = fails(3, "distance", ckpt, "--fail-above", f"tssd={tssd * 0.999}", "--fail-above", "l2=0", "--json")
    assert "tssd of v,l is" in message
    assert "l2 of v,l is" in message
    assert vlmerge("distance", ckpt, "--fail-above", "l2=0", "--json").document["tssd"] == tssd


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fail-above", "tsd=1"), "did you mean 'tssd'?"),
        (("--fail-above", "tssd=x"), "tssd=0.02"),
        (("--by", "layers"), "did you mean 'layer'?"),
        (("--pair", "v,x"), "no layer has both"),
        (("--truncate", "1.5"), "--truncate"),
        (("--layout", "x"), "no layout 'x'"),
        (("--dtype", "float23"), "did you mean 'float32'?"),
        (("--device", "tpu"), "choose auto, cpu, cuda or cuda:0"),
    ],
)
def test_usage(arguments: tuple[str, ...], words: str, ckpt: Path) -> None:
    assert words in fails(2, "distance", ckpt, *arguments)


def test_a_bad_limit_is_told_before_anything_is_read(tmp_path: Path) -> None:
    fails(2, "distance", tmp_path / "not there", "--fail-above", "tsd=1")


def test_nothing_to_compare(tmp_path: Path) -> None:
    source = save(tmp_path / "ln.safetensors", tiny("custom-ln"))
    ok("distance", source)
    assert "no linear weight" in fails(1, "distance", source, "--weights-only")


def mixed(folder: Path) -> Path:
    """v in float32, l in bfloat16, the rest in float64."""
    kinds = {expert_key(layer, "mlp.fc1.weight", e): t for layer in range(3) for e, t in TYPES.items()}
    made = {key: value.astype(kinds[key]) for key, value in tiny(dtype=np.float64).items() if key in kinds}
    return save(folder / "mixed.safetensors", {**tiny(dtype=np.float64), **made})


TYPES = {"v": np.float32, "l": ml_dtypes.bfloat16}


@pytest.mark.parametrize("dtype", [None, "float64", "float32", "bfloat16", "float16"])
def test_experts_of_different_float_types(dtype: str | None, tmp_path: Path) -> None:
    """L2 and cosine against numpy's on the values as they are, or as they are when rounded."""
    given = () if dtype is None else ("--dtype", dtype)
    found = ok("distance", mixed(tmp_path), "--by", "slot", "--weights-only", "--json", *given).document["rows"]
    row = next(row for row in found if row["at"] == "layers.1.mlp.fc1.weight")
    to = {None: "float64", "bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    v, u = (
        tiny(dtype=np.float64)[expert_key(1, "mlp.fc1.weight", e)].astype(t).astype(to).astype(np.float64).ravel()
        for e, t in TYPES.items()
    )
    assert row["l2"] == pytest.approx(np.linalg.norm(v - u), rel=1e-12)
    assert row["cosine"] == pytest.approx(1 - v @ u / np.linalg.norm(v) / np.linalg.norm(u), rel=1e-9)


def test_what_rounds_to_infinity_is_told(tmp_path: Path) -> None:
    big = {key: value * 1e6 for key, value in tiny().items()}
    ckpt = save(tmp_path / "big.safetensors", big)
    ok("distance", ckpt)
    assert "NaN or infinity" in fails(1, "distance", ckpt, "--dtype", "float16")


def test_a_csv_goes_into_a_pipe_or_appears_whole(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    try:
        ok("distance", ckpt, "--csv", f"/dev/fd/{write}")
    finally:
        os.close(write)
    with open(read, encoding="utf-8") as file:
        text = file.read()
    assert text == ok("distance", ckpt, "--csv", "-").out
    there = tmp_path / "d.csv"
    there.write_text("older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert "cannot write" in fails(1, "distance", ckpt, "--csv", there, "--force")
    assert [(one.name, one.read_text()) for one in tmp_path.glob("*.csv*")] == [("d.csv", "older")]
