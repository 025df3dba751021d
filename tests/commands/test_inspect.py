from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import MODULES, Tensors, fails, ok, save, save_sharded, tiny


def num_floats(tensors: Tensors) -> int:
    return sum(value.size for value in tensors.values() if value.dtype.kind == "f")


@pytest.mark.parametrize("architecture", MODULES)
def test_counts(architecture: str, tmp_path: Path) -> None:
    tensors = tiny(architecture)
    document = ok("inspect", save(tmp_path / "c.safetensors", tensors, {"author": "me"}), "--json").document
    assert document["layout"] == "vl-merging"
    assert document["architecture"] == architecture
    assert document["num_layers"] == 3
    assert document["num_tensors"] == len(tensors)
    assert document["num_bytes"] == sum(value.nbytes for value in tensors.values())
    assert document["num_parameters"] == num_floats(tensors)
    assert document["num_parameters_after"] == num_floats(tiny("agnostic"))
    experts = {key: value for key, value in tensors.items() if key.split(".")[4:5] in (["v"], ["l"], ["vl"])}
    assert document["num_parameters_mergeable"] == num_floats(experts)
    assert document["metadata"] == {"author": "me"}
    assert document["dtypes"]["I64"] == {"num_tensors": 1, "num_bytes": 72}
    assert document["problems"] == []
    assert document["experts"]["2"] == ([] if architecture == "agnostic" else ["v", "l", "vl"])


def test_the_text(ckpt: Path) -> None:
    out = ok("inspect", ckpt).out
    for word in (
        "ckpt.safetensors",
        "specific",
        "v l in 0-1, v l vl in 2",
        "largest slot",
        "fewer",
        "F32",
        "vl-merging",
    ):
        assert word in out
    assert "relative_position_index" not in out


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_keys(flag: tuple[str, ...], ckpt: Path) -> None:
    out = ok("inspect", ckpt, "--keys", *flag).out
    assert all(key in out for key in tiny())


def test_shards(tmp_path: Path) -> None:
    document = ok("inspect", save_sharded(tmp_path / "c", tiny(), 3), "--json").document
    assert len(document["files"]) == 3
    assert document["num_tensors"] == len(tiny())


def test_an_unknown_model_is_shown_all_the_same(tmp_path: Path) -> None:
    source = save(tmp_path / "c.safetensors", {"a": tiny()["logit_scale"]})
    document = ok("inspect", source, "--json").document
    assert document["layout"] is None
    assert "none of the layouts" in document["reason"]
    assert "layout        none" in ok("inspect", source).out
    assert "no key fits layout vlmo" in fails(1, "inspect", source, "--layout", "vlmo")


def test_problems_are_shown(tmp_path: Path) -> None:
    source = save(tmp_path / "c.safetensors", tiny() | {"transformer.blocks.0.odd": tiny()["logit_scale"]})
    assert "problem       unknown key inside a block: transformer.blocks.0.odd" in ok("inspect", source).out


def test_a_merged_file_says_what_it_is(ckpt: Path, tmp_path: Path) -> None:
    ok("merge", ckpt)
    out = ok("inspect", tmp_path / "ckpt.merged.safetensors").out
    assert "agnostic" in out
    assert "merged by     interpolation (alpha 0.5, vl-ratio 0.33" in out
    assert ok("inspect", tmp_path / "ckpt.merged.safetensors", "--json").document["recipe"]["method"] == "interpolation"


@pytest.mark.parametrize("stored", ["{", "[]", '{"recipe": 5}', '{"recipe": {}}', '{"recipe": {"settings": 1}}'])
def test_metadata_that_only_looks_like_ours(stored: str, tmp_path: Path) -> None:
    ok("inspect", save(tmp_path / "c.safetensors", tiny(), {"vlmerge": stored}))
