"""Names, metadata and the files around the weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.helpers import fails, load, metadata_of, ok, read_raw, save, save_sharded, tiny, tiny_grams
from vlmerge_cli.checkpoint.reader import open_checkpoint


def about(path: Path) -> dict:
    return json.loads(metadata_of(path)["vlmerge"])


def test_metadata_says_how_to_repeat_it(ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "-m", "regmean", "--gamma", "0.5")
    out = tmp_path / "ckpt.merged.safetensors"
    assert metadata_of(out)["format"] == "pt"
    recipe = about(out)["recipe"]
    assert recipe["method"] == "regmean"
    assert recipe["settings"] == {"gamma": 0.5, "ridge": 0.0, "weigh": "tokens"}
    assert recipe["layout"] == "vl-merging"
    assert set(recipe["inputs"]) == {"checkpoint", "grams"}
    with open_checkpoint(ckpt) as opened:
        assert recipe["inputs"]["checkpoint"] == {"name": "ckpt.safetensors", "digest": opened.fingerprint()}
    assert str(tmp_path) not in json.dumps(about(out)), "no absolute path"


def test_own_metadata_is_kept(tmp_path: Path) -> None:
    source = save(tmp_path / "c.safetensors", tiny(), {"author": "me", "format": "np"})
    ok("merge", source)
    found = metadata_of(tmp_path / "c.merged.safetensors")
    assert found["author"] == "me"
    assert found["format"] == "pt"


def test_full_digest(ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "--digest", "full")
    digest = about(tmp_path / "ckpt.merged.safetensors")["recipe"]["inputs"]["checkpoint"]["digest"]
    assert digest.startswith("sha256-full:")


def test_grams_of_this_checkpoint_are_taken(ckpt: Path, tmp_path: Path) -> None:
    with open_checkpoint(ckpt) as opened:
        stored = {"vlmerge": json.dumps({"checkpoint": opened.fingerprint()})}
    save(tmp_path / "ckpt.grams.safetensors", tiny_grams(tiny()), stored)
    ok("merge", ckpt, "-m", "regmean")


def test_default_names(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README has it: no argument but the method."""
    out = ok("merge", ckpt, "--method", "regmean", "--gamma", "0.5").out
    assert "ckpt.merged.safetensors" in out
    assert "GB/s" in out
    folder = save_sharded(tmp_path / "model", tiny())
    save(tmp_path / "model.grams.safetensors", tiny_grams(tiny()))
    ok("merge", folder, "-m", "regmean")
    assert (tmp_path / "model.merged" / "model.safetensors").is_file()
    monkeypatch.chdir(folder)
    assert "exists" in fails(2, "merge", ".")
    ok("merge", "model.safetensors.index.json", "-m", "regmean", "--force")


def test_the_summary_as_json(ckpt: Path, tmp_path: Path) -> None:
    document = ok("merge", ckpt, "--json", "--alpha", "0.75").document
    assert document["output"] == str(tmp_path / "ckpt.merged.safetensors")
    floats = {key: value for key, value in tiny().items() if value.dtype.kind == "f"}
    assert document["num_parameters_before"] == sum(value.size for value in floats.values())
    after = load(tmp_path / "ckpt.merged.safetensors")
    assert document["num_parameters_after"] == sum(a.size for a in after.values() if a.dtype.kind == "f")
    assert document["settings"]["alpha"] == 0.75
    assert document["num_bytes_out"] == sum(a.nbytes for a in after.values())
    assert document["gigabytes_per_second"] >= 0


def test_force(ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "--alpha", "0")
    old = (tmp_path / "ckpt.merged.safetensors").read_bytes()
    assert "--force" in fails(2, "merge", ckpt, "--alpha", "1")
    assert (tmp_path / "ckpt.merged.safetensors").read_bytes() == old
    ok("merge", ckpt, "--alpha", "1", "--force")
    assert (tmp_path / "ckpt.merged.safetensors").read_bytes() != old


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_gets_the_small_files_of_its_input(shards: int, tmp_path: Path) -> None:
    source = save_sharded(tmp_path / "in", tiny(), shards)
    config = {"architecture": "specific", "hidden_size": 6}
    (source / "config.json").write_text(json.dumps(config))
    (source / "vocab.txt").write_text("a\nb\n")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "optimizer.npz").write_bytes(b"large")
    (source / "README.md").write_text("of the input")
    (source / "deep").mkdir()
    ok("merge", source, "-o", tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "config.json", "model.safetensors", "vocab.txt"]
    assert json.loads((out / "config.json").read_text()) == config  # another tool's, as it came
    assert about(out / "model.safetensors")["config"] == config  # another tool's, as it came
    assert "interpolation" in (out / "README.md").read_text()


def test_a_kept_slot_keeps_the_architecture_in_the_config(tmp_path: Path) -> None:
    source = save_sharded(tmp_path / "in", tiny())
    (source / "config.json").write_text('{"architecture": "specific"}')
    ok("merge", source, "-o", tmp_path / "out", "--keep", "layers.0.*")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"architecture": "specific"}


@pytest.mark.parametrize("limit", ["1kB", "3kB", "1MB"])
def test_shards(limit: str, ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "-o", tmp_path / "out", "--max-shard-size", limit)
    ok("merge", ckpt, "-o", tmp_path / "whole.safetensors")
    out, whole = tmp_path / "out", read_raw(tmp_path / "whole.safetensors")
    shards = sorted(out.glob("*.safetensors"))
    if limit == "1MB":
        assert [p.name for p in shards] == ["model.safetensors"]
        assert not (out / "model.safetensors.index.json").exists()
    else:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        named = {(key, p.name) for p in shards for key in read_raw(p)}
        assert set(index["weight_map"].items()) == named
        assert index["metadata"]["total_size"] == sum(len(raw.data) for raw in whole.values())
        size = int(limit[0]) * 1000
        for path in shards:
            tensors = read_raw(path)
            assert len(tensors) == 1 or sum(len(raw.data) for raw in tensors.values()) <= size
    assert {key: raw for p in shards for key, raw in read_raw(p).items()} == whole
    with open_checkpoint(out) as opened:
        assert set(opened.tensors) == set(whole)


def test_an_existing_folder_is_replaced_whole(ckpt: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ok("merge", ckpt, "-o", out, "--max-shard-size", "1kB")
    assert "--force" in fails(2, "merge", ckpt, "-o", out)
    ok("merge", ckpt, "-o", out, "--force")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "model.safetensors"]


def test_an_empty_folder_is_taken_with_force(ckpt: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ok("merge", ckpt, "-o", tmp_path / "out", "--force")


def test_a_link_is_replaced_and_what_it_names_stays(ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt, "-o", tmp_path / "real")
    old = read_raw(tmp_path / "real" / "model.safetensors")
    (tmp_path / "link").symlink_to("real")
    ok("merge", ckpt, "-o", tmp_path / "link", "--force", "--alpha", "0")
    assert not (tmp_path / "link").is_symlink()
    assert read_raw(tmp_path / "real" / "model.safetensors") == old
    assert not list(tmp_path.glob(".*"))
    file = tmp_path / "file.safetensors"
    file.symlink_to("real/model.safetensors")
    ok("merge", ckpt, "-o", file, "--force")
    assert not file.is_symlink()
    assert read_raw(tmp_path / "real" / "model.safetensors") == old


@pytest.mark.parametrize("mask", [0o027, 0o077, 0o002])
def test_the_mode_is_what_the_umask_gives(mask: int, ckpt: Path, tmp_path: Path) -> None:
    old = os.umask(mask)
    try:
        ok("merge", ckpt, "-o", tmp_path / "f.safetensors")
        ok("merge", ckpt, "-o", tmp_path / "folder", "--max-shard-size", "1kB")
    finally:
        os.umask(old)
    assert (tmp_path / "f.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "folder").iterdir()} == {0o666 & ~mask}


def test_names_with_odd_characters(tmp_path: Path) -> None:
    source = save(tmp_path / "a [1] *é.safetensors", tiny())
    ok("merge", source)
    ok("merge", source, "--force")
    assert (tmp_path / "a [1] *é.merged.safetensors").is_file()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kept", ["layers.1.*", "layers.2.attn.qkv.*", "*.mlp.*"])
def test_a_merge_in_two_steps_is_the_merge(kept: str, tmp_path: Path) -> None:
    """What a partial merge left apart is all that is inspected, compared and merged of it afterwards."""
    source = save(tmp_path / "ckpt.safetensors", tiny())
    partial, rest, whole = (tmp_path / f"{name}.safetensors" for name in ("partial", "rest", "whole"))
    ok("merge", source, "-o", partial, "--keep", kept)
    assert ok("inspect", partial, "--json").document["problems"] == []
    apart = ok("distance", partial, "--by", "slot", "--json").document
    all_of_it = ok("distance", source, "--by", "slot", "--json").document
    assert {row["at"] for row in apart["rows"]} < {row["at"] for row in all_of_it["rows"]}
    ok("merge", partial, "-o", rest)
    ok("merge", source, "-o", whole)
    assert read_raw(rest) == read_raw(whole)
