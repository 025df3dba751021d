from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.helpers import fails, ok, save, tiny, vlmerge


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
