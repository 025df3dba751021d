from __future__ import annotations

from pathlib import Path

import yaml

from tests.helpers import fails, ok, save, tiny
from vlmerge_cli.layouts import LAYOUTS
from vlmerge_cli.layouts.layout import named


def test_the_list() -> None:
    out = ok("layouts").out
    document = ok("layouts", "--json").document
    assert [one["name"] for one in document] == list(LAYOUTS)
    for one in document:
        assert one["name"] in out
        assert one["about"] in out
        assert one["num_slots"] == len(named(one["name"]).rules)


def test_a_layout_file_can_be_copied_and_used(ckpt: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(ok("layouts", "--show", "vl-merging").out)
    assert yaml.safe_load(mine.read_text())["name"] == "vl-merging"
    assert ok("layouts", ckpt, "--layout", mine, "--json").document[0]["problems"] == []


def test_a_check(ckpt: Path) -> None:
    first, second, *_ = ok("layouts", ckpt, "--json").document
    assert (first["layout"], first["architecture"], first["problems"]) == ("vl-merging", "specific", [])
    assert second["layout"] == "vlmo"
    assert second["problems"]
    assert "vl-merging: specific; " in ok("layouts", ckpt).out


def test_no_layout_fits(tmp_path: Path) -> None:
    source = save(tmp_path / "c.safetensors", {"a": tiny()["logit_scale"]})
    assert "no layout fits" in fails(1, "layouts", source)
    source = save(tmp_path / "d.safetensors", tiny() | {"transformer.blocks.0.odd": tiny()["logit_scale"]})
    assert "no layout fits" in fails(1, "layouts", source)


def test_a_misspelt_name() -> None:
    assert "did you mean 'vl-merging'?" in fails(2, "layouts", "--show", "vl-mergin")
    assert "did you mean 'vlmo'?" in fails(2, "layouts", "--layout", "vlmoo")
