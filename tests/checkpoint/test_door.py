"""What people really have in place of a checkpoint: half of one, a pointer, a page, an adapter, a cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from tests.helpers import encode, expert_key, fails, load, metadata_of, ok, run, save, save_sharded, tiny
from vlmerge_cli.checkpoint import door
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.errors import CheckpointError

SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def half(folder: Path) -> Path:
    """A download that ended after the first shard of two."""
    save_sharded(folder, tiny())
    (folder / INDEX).unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


@pytest.mark.parametrize("arguments", [("inspect",), ("merge",), ("distance",)])
def test_half_a_download_is_not_a_model(arguments: tuple[str, ...], tmp_path: Path) -> None:
    error = fails(1, *arguments, half(tmp_path / "m"))
    for words in ("shard 1 of 2", f"no {INDEX}", "fetch", SHARD):
        assert words in error
    assert len(error.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_part_that_is_named_is_taken_with_a_warning(tmp_path: Path) -> None:
    found = ok("inspect", half(tmp_path / "m") / SHARD)
    assert "warning: " + SHARD + " is shard 1 of 2" in found.err


def test_all_shards_without_an_index_are_the_model(tmp_path: Path) -> None:
    (save_sharded(tmp_path, tiny()) / INDEX).unlink()
    with open_checkpoint(tmp_path) as found:
        assert set(found.tensors) == set(tiny())


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.fp16.json"]
)
def test_an_index_of_another_name_is_read(name: str, tmp_path: Path) -> None:
    (save_sharded(tmp_path, tiny()) / INDEX).rename(tmp_path / name)
    with open_checkpoint(tmp_path) as found:
        assert set(found.tensors) == set(tiny())
    (tmp_path / SHARD).unlink()
    with pytest.raises(CheckpointError, match="shard is missing: " + SHARD):
        open_checkpoint(tmp_path)


def test_several_indices_are_named(tmp_path: Path) -> None:
    save_sharded(tmp_path, tiny())
    content = (tmp_path / INDEX).read_text()
    (tmp_path / INDEX).unlink()
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="a.safetensors.index.json, b.safetensors.index.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("arguments", [("inspect",), ("merge",), ("distance",)])
@pytest.mark.parametrize("only_large", [False, True])
def test_weights_that_zero3_emptied_are_refused(arguments: tuple[str, ...], only_large: bool, tmp_path: Path) -> None:
    emptied = {
        key: np.zeros(0, np.float32) if not only_large or key.endswith("fc1.weight") else value
        for key, value in tiny().items()
    }
    error = fails(1, *arguments, save(tmp_path / "m.safetensors", emptied))
    assert "shape (0,)" in error
    assert "ZeRO-3" in error


@pytest.mark.parametrize(("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n", ("git-lfs pointer", "git lfs pull")),
        (b"\n  <!DOCTYPE html><html><title>Sign in</title></html>", ("an HTML page", "download")),
        (b"<html><body>404</body></html>", ("an HTML page", "download")),
        (b'{"error": "Repository not found"}', ("JSON text", "download")),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ("XML text", "download")),
        (b"GGUF\x03\0\0\0" + bytes(64), ("GGUF",)),
        (b"PK\x03\x04" + bytes(64), ("zip archive", "vlmerge convert")),
        (b"\x80\x02}q\0." + bytes(64), ("pickle", "vlmerge convert")),
        (b"\x1f\x8b\x08\0" + bytes(64), ("gzip", "unpack")),
        (bytes(4096), ("zeros", "download")),
        (b"The weights are on the other disk.\n", ("a text file",)),
    ],
)  # fmt: skip
def test_what_came_in_place_of_weights_is_said(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    error = fails(1, "merge", path)
    assert all(word in error for word in ("not a safetensors file", str(path), *words)), error


def test_a_safetensors_file_named_as_a_pickle(tmp_path: Path) -> None:
    save(tmp_path / "m.ckpt", tiny())
    with open_checkpoint(tmp_path / "m.ckpt") as found:
        assert set(found.tensors) == set(tiny())
    error = fails(1, "convert", tmp_path / "m.ckpt", tmp_path / "m.safetensors")
    assert "name it .safetensors" in error


def test_a_pointer_in_place_of_a_pickle_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    assert "git lfs pull" in fails(1, "convert", tmp_path / "m.pt", tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://huggingface.co/acme/x", ("name it as acme/x",)),
        ("https://huggingface.co/acme/x/tree/main", ("name it as acme/x\n",)),
        ("https://huggingface.co/acme/x/resolve/v1/model.safetensors", ("name it as acme/x@v1",)),
        ("hf://acme/x", ("name it as acme/x",)),
        ("file:///data/m.safetensors", ("name it as /data/m.safetensors",)),
        ("s3://bucket/model.safetensors", ("download it",)),
    ],
)
def test_an_address_is_no_path(name: str, words: tuple[str, ...]) -> None:
    error = fails(1, "inspect", name)
    assert all(word in error for word in ("an address, not a path", *words)), error


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("adapter_config.json", "adapter_model.safetensors"), ("only an adapter", "merge_and_unload")),
        (("pytorch_model.bin", "config.json"), ("pytorch_model.bin", "vlmerge convert")),
        (("model-q4.gguf",), ("model-q4.gguf", "safetensors that it was made from")),
        (("__0_0.distcp", ".metadata"), ("distributed checkpoint", "dcp_to_torch")),
        (("model.safetensors.incomplete",), ("download", "did not end")),
        (("epoch3/model.safetensors",), ("name the folder: ", "epoch3")),
        (("tf_model.h5",), ("tf_model.h5",)),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(
    files: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(b"{}")
    error = fails(1, "inspect", tmp_path / "m")
    assert all(word in error for word in words), error


def test_pipes_and_links_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.safetensors")
    assert "is a pipe and is not a file" in fails(1, "inspect", tmp_path / "p.safetensors")
    (tmp_path / "l.safetensors").symlink_to("gone")
    assert "a link to nothing" in fails(1, "inspect", tmp_path / "l.safetensors")
    (tmp_path / "o.safetensors").symlink_to("o.safetensors")
    assert "did you mean" not in fails(1, "inspect", tmp_path / "o.safetensors")


def cache_of(hub: Path, name: str) -> Path:
    """A snapshot's folder in a cache of the Hub."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = hub / f"models--acme--{name}"
    for part in ("refs", "blobs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text(revision)
    return folder / "snapshots" / revision


@pytest.mark.parametrize("what", ["stub", "half", "dangling", "cut"])
def test_a_cache_that_is_not_complete(what: str, tmp_path: Path) -> None:
    folder = cache_of(tmp_path / "hub", what)
    if what == "half":
        half(folder)
    elif what == "dangling":
        (folder / "model.safetensors").symlink_to("../../blobs/gone")
    elif what == "cut":
        (folder / "model.safetensors").write_bytes(encode(tiny())[:-1])
    (folder / "config.json").write_text("{}")
    done = run("inspect", f"acme/{what}", env={"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert f"cache of {what} is not complete, and offline" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    for path in (tmp_path / "hub" / f"models--acme--{what}", folder.parent):
        assert str(folder) in fails(1, "inspect", path)


def test_an_adapter_beside_is_told_and_not_carried_along(tmp_path: Path) -> None:
    save(tmp_path / "m/model.safetensors", tiny())
    save(tmp_path / "m/adapter_model.safetensors", {"lora_A": np.ones(2, np.float32)})
    for name in ("adapter_config.json", "config.json"):
        (tmp_path / "m" / name).write_text("{}")
    found = ok("merge", tmp_path / "m", "-o", tmp_path / "out")
    assert "adapter (LoRA), which is not applied" in found.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(("prefix", "dotless"), [("model_ema.", False), ("ema_model/", False), ("model_ema.", True)])
def test_a_second_copy_of_the_experts_is_told(prefix: str, dotless: bool, tmp_path: Path) -> None:
    copy = {prefix + (key.replace(".", "") if dotless else key): value for key, value in tiny().items()}
    found = ok("merge", save(tmp_path / "m.safetensors", {**tiny(), **copy}))
    num_experts = sum(any(f".{e}." in key for e in ("v", "l", "vl")) for key in tiny())
    assert f"a second copy of {num_experts} tensors of experts lies under {prefix!r}" in found.err
    assert not ok("merge", save(tmp_path / "n.safetensors", tiny())).err


class Tied(torch.nn.Module):
    """Experts v and l that share their memory."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in tiny().items():
            at: torch.nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, torch.nn.Module())
                at = getattr(at, part)
            at.register_buffer(last, torch.from_numpy(np.array(value)))
        for block in self.transformer.blocks.children():  # type: ignore[union-attr]
            for module in block.children():
                if hasattr(module, "v"):
                    module.l = module.v


def test_tensors_stored_under_another_name_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tied.safetensors"
    save_model(Tied(), str(path))
    assert len(load(path)) < len(tiny())
    with open_checkpoint(path) as found:
        assert set(found.tensors) == set(tiny())
        key = expert_key(0, "mlp.fc1.weight", "v")
        assert bytes(found.read(key)) == tiny()[key].tobytes()
        assert found.read(expert_key(0, "mlp.fc1.weight", "l")) == found.read(key)
    document = json.loads(ok("distance", path, "--json").out)
    assert document
    ok("merge", path, "-o", tmp_path / "out.safetensors")
    merged = load(tmp_path / "out.safetensors")
    assert set(merged) == set(tiny("agnostic"))
    assert np.array_equal(merged["transformer.blocks.0.mlp.fc1.weight"], tiny()[key])
    assert set(metadata_of(tmp_path / "out.safetensors")) == {"format", "vlmerge"}


def test_what_goes_along_with_weights(tmp_path: Path) -> None:
    """No pipe, folder, loop, or file from elsewhere; of a Hub cache, its blobs."""
    save(tmp_path / "m/model.safetensors", tiny())
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "m/vocab.txt").write_text("a\n")
    (tmp_path / "m/tokenizer.json").symlink_to("../secret")
    (tmp_path / "m/loop.json").symlink_to("loop.json")
    (tmp_path / "m/folder.json").mkdir()
    os.mkfifo(tmp_path / "m/pipe.json")
    ok("merge", tmp_path / "m", "-o", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "model.safetensors", "vocab.txt"]
    (tmp_path / "m/model.safetensors").unlink()
    torch.save({"w": torch.ones(3)}, tmp_path / "m/pytorch_model.bin")
    ok("convert", tmp_path / "m", tmp_path / "converted")
    assert sorted(p.name for p in (tmp_path / "converted").iterdir()) == ["model.safetensors", "vocab.txt"]


def test_an_index_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / INDEX)
    assert "is a pipe and is not a file" in fails(1, "inspect", tmp_path)


def test_a_header_is_none_of_the_known_contents() -> None:
    assert door.contents((10**9).to_bytes(8, "little") + bytes(64)) is None
