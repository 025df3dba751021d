from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import save, save_sharded, tiny
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.errors import CheckpointError


def test_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "c.safetensors", tiny(), {"a": "b"})
    with open_checkpoint(path) as opened:
        assert list(opened.tensors) == list(tiny())
        assert {key: bytes(opened.read(key)) for key in opened.tensors} == {k: v.tobytes() for k, v in tiny().items()}
        assert opened.metadata == {"a": "b"}
        assert opened.num_bytes == sum(value.nbytes for value in tiny().values())
        assert opened.folder is None
        assert opened.path == path


def test_the_first_bytes_are_asked_for_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(save_sharded(tmp_path / "c", tiny(), 3)) as opened:
        sizes = [shard.header.num_bytes for shard in opened.shards]
        opened.read_ahead(1)
        asked: list[int] = []
        monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, size, what: asked.append(size))
        opened.read_ahead(sizes[0] + 5)
        opened.read_ahead(10**12)
        assert asked == [sizes[0], 5, *sizes]
        monkeypatch.delattr(os, "posix_fadvise")
        opened.read_ahead(1)


@pytest.mark.parametrize("name", ["", "model.safetensors.index.json"])
def test_a_folder_or_its_index(name: str, tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "c", tiny(), 3)
    with open_checkpoint(folder / name) as opened:
        assert {key: bytes(opened.read(key)) for key in opened.tensors} == {k: v.tobytes() for k, v in tiny().items()}
        assert opened.path == opened.folder == folder
        order = list(opened.tensors)
        assert sorted(order, key=opened.position) == order


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors"])
def test_a_folder_with_one_file(name: str, tmp_path: Path) -> None:
    save(tmp_path / "c" / name, tiny())
    save(tmp_path / "c" / "c.grams.safetensors", {})
    with open_checkpoint(tmp_path / "c") as opened:
        assert set(opened.tensors) == set(tiny())


def test_links_are_followed(tmp_path: Path) -> None:
    """As in the Hub's cache."""
    save(tmp_path / "blobs" / "abc", tiny())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.safetensors").symlink_to("../blobs/abc")
    with open_checkpoint(tmp_path / "c") as opened:
        assert set(opened.tensors) == set(tiny())


def test_parts_of_a_tensor(tmp_path: Path) -> None:
    whole = tiny()["text_embeddings.word_embeddings.weight"].tobytes()
    with open_checkpoint(save(tmp_path / "c.safetensors", tiny())) as opened:
        for start, size in ((0, 1), (3, 50), (len(whole) - 1, 1), (len(whole), 0)):
            part = bytearray(size)
            opened.read_into("text_embeddings.word_embeddings.weight", part, start)
            assert part == whole[start : start + size]


def test_reads_from_several_threads(tmp_path: Path) -> None:
    with open_checkpoint(save_sharded(tmp_path / "c", tiny(), 3)) as opened, ThreadPoolExecutor(8) as pool:
        keys = list(opened.tensors) * 20
        assert [bytes(data) for data in pool.map(opened.read, keys)] == [tiny()[key].tobytes() for key in keys]


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:5]], at))
    with open_checkpoint(save(tmp_path / "c.safetensors", tiny())) as opened:
        for key, value in tiny().items():
            assert bytes(opened.read(key)) == value.tobytes()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "c.safetensors", tiny())
    with open_checkpoint(path) as opened:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(CheckpointError, match="the file ends inside"):
            opened.read(list(opened.tensors)[-1])


def test_a_misspelt_key(tmp_path: Path) -> None:
    opened = open_checkpoint(save(tmp_path / "c.safetensors", tiny()))
    with opened, pytest.raises(CheckpointError, match="did you mean 'logit_scale'"):
        opened.read("logit_scal")


def test_files_are_closed(tmp_path: Path) -> None:
    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    folder = save_sharded(tmp_path / "c", tiny(), 3)
    before = num_open()
    with open_checkpoint(folder):
        assert num_open() == before + 3
    assert num_open() == before
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["nothing"] = "model-00001-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)
    assert num_open() == before


def test_fingerprints(tmp_path: Path) -> None:
    def fingerprint(full: bool = False, **change: object) -> str:
        with open_checkpoint(save(tmp_path / "c.safetensors", {**tiny(width=40), **change})) as opened:
            return opened.fingerprint(full)

    assert fingerprint() == fingerprint()
    for full in (False, True):
        other = tiny(width=40)["logit_scale"] + 1
        assert fingerprint(full) != fingerprint(full, logit_scale=other)
    middle = tiny(width=40)
    key = "transformer.blocks.0.attn.v.qkv.weight"
    assert middle[key].nbytes > 3 * 4096
    middle[key].flat[middle[key].size // 2] += 1
    assert fingerprint() == fingerprint(**{key: middle[key]}), "only the edges of a tensor are read"
    assert fingerprint(True) != fingerprint(True, **{key: middle[key]})
    assert fingerprint().startswith("sha256:")


@pytest.mark.parametrize(("value", "expected"), [("{", {}), ("[1]", {}), ('{"a": 1}', {"a": 1}), (None, {})])
def test_what_the_tool_stored(value: str | None, expected: dict, tmp_path: Path) -> None:
    metadata = {} if value is None else {"vlmerge": value}
    with open_checkpoint(save(tmp_path / "c.safetensors", tiny(), metadata)) as opened:
        assert opened.about() == expected


def test_the_configuration(tmp_path: Path) -> None:
    stored = {"vlmerge": json.dumps({"config": {"from": "metadata"}})}
    save(tmp_path / "c" / "model.safetensors", tiny(), stored)
    with open_checkpoint(tmp_path / "c") as opened:
        assert opened.config() == {"from": "metadata"}
        (tmp_path / "c" / "config.json").write_text('{"from": "file"}')
        assert opened.config() == {"from": "file"}
        (tmp_path / "c" / "config.json").write_text("[]")
        with pytest.raises(CheckpointError, match="not a JSON object"):
            opened.config()
