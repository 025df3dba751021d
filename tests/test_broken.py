"""Broken and unfit inputs: each gives one clear line and its exit code, writes nothing and leaves nothing."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.helpers import (
    Raw,
    Tensors,
    encode,
    expert_key,
    fails,
    leftovers,
    load,
    ok,
    read_raw,
    save,
    save_sharded,
    tiny,
    tiny_base,
    tiny_grams,
    vlmerge,
    with_header,
)

MERGE = ("merge", "{ckpt}")
KEY = expert_key(1, "mlp.fc1.weight", "v")


class Case(NamedTuple):
    """``build`` leaves a folder as the user has it; ``words`` are all in the message."""

    build: Callable[[Path], object]
    words: tuple[str, ...]
    arguments: tuple[str, ...] = MERGE
    code: int = 1


def raw_file(content: bytes, name: str = "ckpt.safetensors") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def header(entries: object, body: bytes = bytes(16)) -> Callable[[Path], object]:
    return raw_file(with_header(json.dumps(entries).encode(), body))


def entry(start: int, stop: int, dtype: object = "F32", shape: object = None) -> dict[str, object]:
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def changed(**new: object) -> Callable[[Path], object]:
    """The tiny checkpoint with other tensors under some keys, None for a key left out."""

    def build(folder: Path) -> None:
        tensors: dict[str, object] = {**tiny(), **new}
        save(folder / "ckpt.safetensors", {key: value for key, value in tensors.items() if value is not None})

    return build


def without(*parts: str) -> Callable[[Path], object]:
    """The tiny checkpoint without the keys that hold one of ``parts``."""
    kept = {key: value for key, value in tiny().items() if not any(part in key for part in parts)}
    return lambda folder: save(folder / "ckpt.safetensors", kept)


def indexed(weight_map: object, document: object = None) -> Callable[[Path], object]:
    """A sharded folder whose index has other entries (None: one less), or is another document."""

    def build(folder: Path) -> None:
        save_sharded(folder / "ckpt", tiny())
        path = folder / "ckpt" / "model.safetensors.index.json"
        if document is not None:
            path.write_text(document if isinstance(document, str) else json.dumps(document))
            return
        old = json.loads(path.read_text())["weight_map"]
        assert isinstance(weight_map, dict)
        merged = {key: name for key, name in {**old, **weight_map}.items() if name is not None}
        path.write_text(json.dumps({"weight_map": merged}))

    return build


def with_grams(
    change: Callable[[Tensors], Tensors], metadata: dict[str, str] | None = None
) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        save(folder / "ckpt.safetensors", tiny())
        save(folder / "ckpt.grams.safetensors", change(tiny_grams(tiny())), metadata)

    return build


def with_base(change: Callable[[Tensors], Tensors]) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        save(folder / "ckpt.safetensors", tiny())
        save(folder / "base.safetensors", change(tiny_base(tiny())))

    return build


def folder_of(*names: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        for name in names:
            save(folder / "ckpt" / name, tiny())

    return build


def both_single_and_index(folder: Path) -> None:
    save_sharded(folder / "ckpt", tiny())
    save(folder / "ckpt" / "model.safetensors", tiny())


def duplicated_in_shards(folder: Path) -> None:
    save_sharded(folder / "ckpt", tiny())
    for path in sorted((folder / "ckpt").glob("*.safetensors"))[1:]:
        first = load(path.with_name("model-00001-of-00002.safetensors"))
        save(path, {**load(path), "logit_scale": first["logit_scale"]})


def wrong_shard(folder: Path) -> None:
    indexed({"logit_scale": "model-00002-of-00002.safetensors"})(folder)


def filled(value: float, *keys: str, of: Callable[[], Tensors] = tiny) -> dict[str, np.ndarray]:
    tensors = of()
    found = {}
    for key in keys:
        found[key] = tensors[key].copy()
        found[key].flat[3] = value
    return found


WHOLE = encode(tiny())
GOOD_HEADER = WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")]
TENSOR = {"a": entry(0, 16)}
REGMEAN = (*MERGE, "-m", "regmean")
ARITHMETIC = (*MERGE, "-m", "arithmetic", "--base", "{folder}/base.safetensors")
SHARDED = ("merge", "{folder}/ckpt")
INT = expert_key(1, "mlp.fc1.bias", "v"), expert_key(1, "mlp.fc1.bias", "l")

CASES = {
    # the file
    "empty file": Case(raw_file(b""), ("only 0 bytes", "ckpt.safetensors")),
    "seven bytes": Case(raw_file(bytes(7)), ("only 7 bytes",)),
    "zero filled": Case(raw_file(bytes(4096)), ("header length 0",)),
    "header length 0": Case(raw_file(bytes(8) + b"{}"), ("header length 0",)),
    "header length 1": Case(raw_file((1).to_bytes(8, "little") + b"{}"), ("header length 1",)),
    "header length 2^62": Case(raw_file((2**62).to_bytes(8, "little") + bytes(99)), ("exceeds the file",)),
    "header length 2^64-1": Case(raw_file(b"\xff" * 8 + bytes(99)), ("exceeds the file",)),
    "header beyond the file": Case(raw_file((100).to_bytes(8, "little") + b"{" * 99), ("100 exceeds the file",)),
    "truncated in the header": Case(raw_file(WHOLE[:200]), ("exceeds the file",)),
    "truncated in the data": Case(raw_file(WHOLE[:-1]), ("bytes expected", "cut off")),
    "bytes at the end": Case(raw_file(WHOLE + b"x"), ("1 bytes at the end",)),
    "a pickle by its name": Case(
        raw_file(pickle.dumps({}), "ckpt.ckpt"), ("pickle", "vlmerge convert"), ("merge", "{folder}/ckpt.ckpt")
    ),
    "a pickle by its content": Case(raw_file(pickle.dumps([1] * 50)), ("not a safetensors file",)),
    "a text file": Case(
        raw_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), ("not a safetensors",)
    ),
    "not there": Case(lambda folder: None, ("no such checkpoint", "ckpt.safetensors")),
    "misspelt": Case(
        lambda folder: save(folder / "chkpt.safetensors", tiny()), ("no such checkpoint", "did you mean 'chkpt")
    ),
    "a folder in place of a file": Case(
        lambda folder: (folder / "ckpt.safetensors").mkdir(), ("the folder holds no .safetensors file",)
    ),
    # the header
    "not JSON": Case(raw_file(with_header(b"{]" + b" " * 8)), ("not valid JSON",)),
    "not UTF-8": Case(raw_file(with_header(b'{"\xff\xfe": 1}')), ("not valid JSON",)),
    "JSON but a list": Case(header([]), ("not a JSON object",)),
    "deep JSON": Case(raw_file(with_header(b"[" * 100_000)), ("not valid JSON",)),
    "duplicate keys": Case(
        raw_file(with_header(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2), bytes(16))),
        ("duplicate key 'a'",),
    ),
    "half a surrogate": Case(header({"\ud800": entry(0, 16)}), ("not valid Unicode",)),
    "metadata of numbers": Case(header({"__metadata__": {"a": 1}} | TENSOR), ("__metadata__",)),
    "entry is a number": Case(header({"a": 5}), ("'a'", "expected dtype, shape and data_offsets")),
    "entry lacks a field": Case(header({"a": {"dtype": "F32", "shape": []}}), ("'a'", "data_offsets")),
    "unknown dtype": Case(header({"a": entry(0, 16, "F31")}), ("'a'", "unknown dtype 'F31'")),
    "dtype is a list": Case(header({"a": entry(0, 16, ["F32"])}), ("'a'", "unknown dtype")),
    "negative shape": Case(header({"a": entry(0, 16, shape=[-2, -2])}), ("'a'", "shape [-2, -2]")),
    "boolean shape": Case(header({"a": entry(0, 4, shape=[True])}), ("'a'", "shape [True]")),
    "fractional shape": Case(header({"a": entry(0, 16, shape=[4.0])}), ("'a'", "shape [4.0]")),
    "huge shape": Case(header({"a": entry(0, 16, shape=[2**62, 2**62])}), ("'a'", "takes")),
    "wrong size": Case(header({"a": entry(0, 16, shape=[5])}), ("'a'", "takes 20 bytes", "hold 16")),
    "offsets turned round": Case(header({"a": entry(16, 0, shape=[4])}), ("'a'", "takes 16 bytes")),
    "negative offsets": Case(header({"a": entry(-16, 0, shape=[4])}), ("'a'", "not two positions")),
    "three offsets": Case(
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}), ("'a'", "not two positions")
    ),
    "half a byte": Case(header({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}), ("'a'", "whole bytes")),
    "overlapping": Case(header({"a": entry(0, 12), "b": entry(8, 16)}), ("'b' overlaps 'a'",)),
    "one range twice": Case(header({"a": entry(0, 16), "b": entry(0, 16)}), ("overlaps",)),
    "a hole": Case(header({"a": entry(0, 4), "b": entry(8, 16)}), ("4 bytes before 'b' belong to no tensor",)),
    "a hole at the start": Case(header({"a": entry(4, 16)}), ("4 bytes before 'a'",)),
    "past the end": Case(header({"a": entry(0, 32)}), ("bytes expected", "cut off")),
    # folders and indices
    "index names ../x": Case(indexed({"a": "../x.safetensors"}), ("outside its folder", "../x"), SHARDED),
    "index names an absolute path": Case(indexed({"a": "/x.safetensors"}), ("outside its folder", "'/x"), SHARDED),
    "index names a missing shard": Case(
        indexed({"logit_scale": "gone.safetensors"}), ("shard is missing", "gone.safetensors"), SHARDED
    ),
    "index names a folder": Case(indexed({"logit_scale": "."}), ("shard",), SHARDED),
    "index names a key in the wrong shard": Case(wrong_shard, ("does not hold 'logit_scale'",), SHARDED),
    "index names a key of no shard": Case(
        indexed({"a": "model-00001-of-00002.safetensors"}), ("does not hold 'a'",), SHARDED
    ),
    "index leaves a key out": Case(indexed({"logit_scale": None}), ("does not name 'logit_scale'",), SHARDED),
    "index of numbers": Case(indexed(None, {"weight_map": {"a": 1}}), ("no weight_map",), SHARDED),
    "index without a map": Case(indexed(None, {}), ("no weight_map",), SHARDED),
    "index of nothing": Case(indexed(None, {"weight_map": {}}), ("no weight_map",), SHARDED),
    "index is a list": Case(indexed(None, [1]), ("not a JSON object",), SHARDED),
    "index is not JSON": Case(indexed(None, "{"), ("not valid JSON",), SHARDED),
    "a key in two shards": Case(duplicated_in_shards, ("'logit_scale' is in two shards",), SHARDED),
    "index and a whole file": Case(both_single_and_index, ("both a whole checkpoint and an index",), SHARDED),
    "several files, no index": Case(
        folder_of("a.safetensors", "b.safetensors"),
        ("several checkpoints", "a.safetensors", "b.safetensors"),
        SHARDED,
    ),
    "empty folder": Case(lambda folder: (folder / "ckpt").mkdir(), ("holds no .safetensors",), SHARDED),
    # the model
    "keys of no layout": Case(
        lambda folder: save(folder / "ckpt.safetensors", {"a": np.ones(3)}), ("none of the layouts",)
    ),
    "no tensor at all": Case(raw_file(with_header(b"{}      ")), ("none of the layouts",)),
    "agnostic already": Case(
        lambda folder: save(folder / "ckpt.safetensors", tiny("agnostic")), ("modality-agnostic already",)
    ),
    "agnostic, distance": Case(
        lambda folder: save(folder / "ckpt.safetensors", tiny("agnostic")), ("two experts",), ("distance", "{ckpt}")
    ),
    "shapes differ": Case(
        changed(**{KEY: np.ones((4, 6), np.float32)}),
        ("layer 1 mlp.fc1.weight", "v is (4, 6)", "l is (10, 6)", "ckpt.safetensors (layout vl-merging)", "--keep"),
    ),
    "shapes differ, distance": Case(
        changed(**{KEY: np.ones((4, 6), np.float32)}),
        ("layer 1 mlp.fc1.weight", "v is (4, 6)", "l is (10, 6)"),
        ("distance", "{ckpt}"),
    ),
    "dtypes differ": Case(
        changed(**{KEY: tiny()[KEY].astype(np.float16)}),
        ("layer 1 mlp.fc1.weight", "v is F16", "l is F32", "--keep"),
    ),
    "v missing in one slot": Case(
        without("1.mlp.v.fc1.weight"), ("layer 1 mlp.fc1.weight", "expert v is missing", KEY)
    ),
    "l missing in one layer": Case(
        without("1.attn.l.", "1.mlp.l.", "1.norm1.l.", "1.norm2.l."),
        ("1 problem:", "layer 1: expert l is missing in every slot"),
    ),
    "vl missing in the last layer": Case(
        lambda folder: save(
            folder / "ckpt.safetensors",
            {
                k: a
                for k, a in tiny(layers=4, top=2).items()
                if not (k.startswith("transformer.blocks.3") and ".vl." in k)
            },
        ),
        ("1 problem:", "layer 3: expert vl is missing in every slot"),
    ),
    "vl missing in one slot": Case(without("2.norm1.vl.bias"), ("layer 2 norm1.bias: expert vl is missing",)),
    "a layer missing": Case(without("transformer.blocks.1."), ("layer 1 is missing",)),
    "layers far apart": Case(
        changed(**{expert_key(10**12, "mlp.fc1.bias", e): np.ones(10, np.float32) for e in ("v", "l")}),
        ("layers 3 to 999999999999 are missing",),
    ),
    "a slot missing in one layer": Case(
        without("1.mlp.v.fc1.bias", "1.mlp.l.fc1.bias"), ("layer 1 mlp.fc1.bias is missing for every expert",)
    ),
    "unknown key in a block": Case(
        changed(**{"transformer.blocks.1.mlp.v.fc3.weight": np.ones(2, np.float32)}),
        ("unknown key inside a block: transformer.blocks.1.mlp.v.fc3.weight",),
    ),
    "a layer written with a zero in front": Case(
        changed(**{KEY.replace(".1.", ".01."): tiny()[KEY]}), ("unknown key inside a block", ".01.")
    ),
    "stored twice": Case(
        changed(**{"transformer.blocks.1.mlp.fc1.bias": np.ones(10, np.float32)}),
        ("layer 1 mlp.fc1.bias is stored both per expert and once",),
    ),
    "integers differ": Case(
        changed(**{INT[0]: np.arange(10), INT[1]: np.arange(10) + 1}),
        ("layer 1 mlp.fc1.bias", "differ between v and l", "never averaged", "--keep 'layers.1.mlp.fc1.bias'"),
    ),
    "booleans differ": Case(
        changed(**{INT[0]: np.ones(10, bool), INT[1]: np.zeros(10, bool)}), ("layer 1 mlp.fc1.bias", "differ")
    ),
    "float8 experts": Case(
        changed(**dict.fromkeys(INT, Raw("F8_E4M3", (10,), bytes(10)))),
        ("layer 1 mlp.fc1.bias", "F8_E4M3", "--keep"),
    ),
    "float8 experts, distance": Case(
        changed(**dict.fromkeys(INT, Raw("F8_E4M3", (10,), bytes(10)))),
        ("layer 1 mlp.fc1.bias", "F8_E4M3"),
        ("distance", "{ckpt}"),
    ),
    "NaN in an expert": Case(
        changed(**filled(np.nan, KEY)), ("NaN or infinity in", KEY, "--allow-non-finite", "--keep")
    ),
    "infinity in an expert": Case(changed(**filled(-np.inf, KEY)), ("NaN or infinity in", KEY)),
    "NaN in a bias, regmean": Case(
        lambda folder: (
            changed(**filled(np.nan, INT[0]))(folder),
            save(folder / "ckpt.grams.safetensors", tiny_grams(tiny())),
        ),
        ("NaN or infinity in", INT[0]),
        REGMEAN,
    ),
    "NaN in a linear weight, regmean": Case(
        lambda folder: (
            changed(**filled(np.nan, KEY))(folder),
            save(folder / "ckpt.grams.safetensors", tiny_grams(tiny())),
        ),
        ("NaN or infinity in", KEY),
        REGMEAN,
    ),
    "NaN, distance": Case(changed(**filled(np.nan, KEY)), ("NaN or infinity in", KEY), ("distance", "{ckpt}")),
    # Grams and base
    "no Grams": Case(
        changed(), ("regmean needs Gram matrices", "ckpt.grams.safetensors does not exist", "--grams"), REGMEAN
    ),
    "Grams named, not there": Case(changed(), ("no such checkpoint", "my.grams"), (*REGMEAN, "--grams", "my.grams")),
    "a Gram missing": Case(
        with_grams(lambda grams: {k: a for k, a in grams.items() if k != "transformer.blocks.2.mlp.vl.fc1"}),
        ("layer 2 mlp.fc1.weight: no Gram of expert vl", "transformer.blocks.2.mlp.vl.fc1"),
        REGMEAN,
    ),
    "a Gram of the wrong size": Case(
        with_grams(lambda grams: grams | {"transformer.blocks.0.mlp.v.fc1": np.eye(5)}),
        ("layer 0 mlp.fc1.weight", "6 wide", "Gram of v is (5, 5)"),
        REGMEAN,
    ),
    "a Gram of integers": Case(
        with_grams(lambda grams: grams | {"transformer.blocks.0.mlp.v.fc1": np.eye(6).astype(np.int64)}),
        ("layer 0 mlp.fc1.weight", "Gram of v", "I64"),
        REGMEAN,
    ),
    "a Gram with NaN": Case(
        with_grams(lambda grams: grams | {"transformer.blocks.0.mlp.v.fc1": np.full((6, 6), np.nan)}),
        ("NaN or infinity in the Gram transformer.blocks.0.mlp.v.fc1",),
        REGMEAN,
    ),
    "Grams of another checkpoint": Case(
        with_grams(lambda grams: grams, {"vlmerge": json.dumps({"checkpoint": "sha256:0"})}),
        ("collected on another checkpoint", "ckpt.grams.safetensors"),
        REGMEAN,
    ),
    "no base": Case(
        changed(), ("arithmetic needs the weights the experts started from: --base",), (*MERGE, "-m", "arithmetic")
    ),
    "base not there": Case(changed(), ("no such checkpoint", "base.safetensors"), ARITHMETIC),
    "base lacks a key": Case(
        with_base(lambda base: {k: a for k, a in base.items() if k != "transformer.blocks.0.norm1.bias"}),
        ("layer 0 norm1.bias: the base", "has no transformer.blocks.0.norm1.bias"),
        ARITHMETIC,
    ),
    "base of another shape": Case(
        with_base(lambda base: base | {"transformer.blocks.0.norm1.bias": np.ones(3, np.float32)}),
        ("layer 0 norm1.bias: experts are (6,), the base is (3,)",),
        ARITHMETIC,
    ),
    "base of integers": Case(
        with_base(lambda base: base | {"transformer.blocks.0.norm1.bias": np.arange(6)}),
        ("layer 0 norm1.bias: the base is I64",),
        ARITHMETIC,
    ),
    "NaN in the base": Case(
        with_base(lambda base: base | {"transformer.blocks.0.norm1.bias": np.full(6, np.nan, np.float32)}),
        ("NaN or infinity in transformer.blocks.0.norm1.bias of the base",),
        ARITHMETIC,
    ),
    "a checkpoint with experts as base": Case(
        changed(),
        ("1 problem:", "has no transformer.blocks.0.attn.qkv.weight", "modality-agnostic"),
        (*MERGE, "-m", "arithmetic", "--base", "{ckpt}"),
    ),
    # numbers that do not fit
    "overflow to float16": Case(
        changed(**{KEY: tiny()[KEY] + np.float32(2e5)}),
        ("float16 cannot hold", "--dtype"),
        (*MERGE, "--dtype", "float16"),
    ),
    "overflow of a copied key": Case(
        changed(logit_scale=np.float32(1e9).reshape(())),
        ("logit_scale", "float16 cannot hold"),
        (*MERGE, "--dtype", "float16"),
    ),
    "overflow beside a NaN": Case(
        changed(**{"transformer.norm.weight": np.array([np.nan, 1e9, 0, 0, 0, 0], np.float32)}),
        ("transformer.norm.weight", "float16 cannot hold"),
        (*MERGE, "--dtype", "float16"),
    ),
    "overflow to float32": Case(
        lambda folder: save(
            folder / "ckpt.safetensors",
            tiny(dtype=np.float64) | {key: np.full(10, 1e300) for key in INT},
        ),
        ("transformer.blocks.1.mlp.fc1.bias", "float32 cannot hold"),
        (*MERGE, "--dtype", "float32"),
    ),
    "float16 merges beyond float16": Case(
        lambda folder: (
            save(folder / "ckpt.safetensors", tiny(dtype=np.float16) | {k: np.full(10, 6e4, np.float16) for k in INT}),
            save(folder / "base.safetensors", tiny_base(tiny(dtype=np.float16))),
        ),
        ("transformer.blocks.1.mlp.fc1.bias", "float16 cannot hold"),
        (*ARITHMETIC, "--lambda", "1"),
    ),
}
#: Cases that no command can open.
FILES = [name for name, case in CASES.items() if case.arguments == MERGE][:38]
for _name, _option in {
    "--alpha 1.5": ("--alpha is 1.5, expected a number from 0 to 1",),
    "--alpha nan": ("--alpha is nan",),
    "--alpha x": ("--alpha",),
    "-m regmean --alpha 0.5": ("--alpha is an option of interpolation", "regmean has --gamma"),
    "-m interpolation --gamma 0.5": ("--gamma is an option of regmean",),
    "--sequential": ("--sequential is an option of arithmetic",),
    "-m regmean --ridge -1": ("--ridge is -1",),
    "-m arithmetic --lambda inf": ("--lambda is inf", "finite"),
    "-m interpolaton": ("no method 'interpolaton'", "did you mean 'interpolation'?"),
    "-m x": ("no method 'x'", "interpolation", "regmean"),
    "--alhpa 0.5": ("--alhpa", "--alpha"),
    "--layout vl-mergin": ("vl-mergin", "did you mean 'vl-merging'?"),
    "--dtype float31": ("--dtype float31", "did you mean 'float3"),
    "--experts-for retreival": ("retreival", "did you mean 'retrieval'?"),
    "--device gpu": ("--device gpu", "cpu"),
    "--digest ful": ("--digest ful", "did you mean 'full'?"),
    "--max-shard-size 5XB": ("--max-shard-size 5XB", "5GB"),
    "--max-shard-size 0": ("--max-shard-size 0", "positive"),
    "--threads 0": ("--threads",),
    "--base {ckpt}": ("--base belongs to arithmetic",),
    "--grams {ckpt}": ("--grams belongs to regmean",),
    "-o nowhere/x.safetensors": ("no such folder: nowhere",),
    "-o {folder}/there": ("there exists", "--force"),
    "-o {ckpt}": ("exists",),
    "-o {ckpt} --force": ("holds an input", "-o/--output"),
    "-o {folder} --force": ("holds an input",),
    "-o {folder}/link.safetensors --force": ("holds an input",),
    "-o {folder}/hard.safetensors --force": ("holds an input",),
    "-o {folder}/there --force": ("holds no checkpoint", "-o/--output"),
    "-o {folder}/there.safetensors --force": ("is a folder", ".safetensors is a file"),
    "-o {folder}/plain --force": ("is a file", ".safetensors is a file"),
    "-o . --force": ("name the output",),
}.items():
    CASES[_name] = Case(changed(), _option, (*MERGE, *_name.split()), 2)
CASES["--keep"] = Case(changed(), ("--keep 'layers.9.*' fits no slot",), (*MERGE, "--keep", "layers.9.*"))


@pytest.mark.parametrize("name", CASES)
def test_broken_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    case.build(tmp_path)
    ckpt = tmp_path / "ckpt.safetensors"
    if case.code == 2:
        (tmp_path / "link.safetensors").symlink_to(ckpt)
        (tmp_path / "hard.safetensors").hardlink_to(ckpt)
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "thesis.txt").touch()
        (tmp_path / "there.safetensors").mkdir()
        (tmp_path / "plain").touch()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = contents(tmp_path)
    message = fails(case.code, *(part.format(ckpt=ckpt, folder=tmp_path) for part in case.arguments))
    for word in case.words:
        assert word in message
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, its bytes; every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"a folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", FILES)
def test_inspect_says_the_same_of_a_broken_file(name: str, tmp_path: Path) -> None:
    """What cannot be opened ends every command; what can is shown with its problems."""
    CASES[name].build(tmp_path)
    merged, inspected = (vlmerge(command, tmp_path / "ckpt.safetensors") for command in ("merge", "inspect"))
    assert merged.err == inspected.err
    assert inspected.code == 1


def test_all_problems_are_in_one_message(tmp_path: Path) -> None:
    changed(
        **{
            KEY: np.ones((4, 6), np.float32),
            INT[0]: None,
            "transformer.blocks.0.odd": np.ones(1),
            expert_key(2, "norm1.bias", "vl"): np.ones(6, np.float16),
        }
    )(tmp_path)
    message = fails(1, "merge", tmp_path / "ckpt.safetensors", "-m", "arithmetic")
    assert "cannot merge, 5 problems" in message
    for word in ("mlp.fc1.weight", "mlp.fc1.bias", "transformer.blocks.0.odd", "F16", "--base"):
        assert word in message


def test_many_problems_are_cut(tmp_path: Path) -> None:
    odd = {f"transformer.blocks.{place}.odd": np.ones(1) for place in range(39)}
    changed(**odd)(tmp_path)
    message = fails(1, "merge", tmp_path / "ckpt.safetensors")
    assert "39 problems" in message
    assert "and 19 more" in message


# --- what passes ---


def test_equal_integers_pass(tmp_path: Path) -> None:
    changed(**dict.fromkeys(INT, np.arange(10)))(tmp_path)
    ok("merge", tmp_path / "ckpt.safetensors")
    merged = load(tmp_path / "ckpt.merged.safetensors")
    np.testing.assert_array_equal(merged["transformer.blocks.1.mlp.fc1.bias"], np.arange(10))


def test_float8_experts_can_be_kept(tmp_path: Path) -> None:
    changed(**dict.fromkeys(INT, Raw("F8_E4M3", (10,), bytes(range(10)))))(tmp_path)
    ok("inspect", tmp_path / "ckpt.safetensors")
    ok("merge", tmp_path / "ckpt.safetensors", "--keep", "layers.1.mlp.fc1.bias")
    merged = read_raw(tmp_path / "ckpt.merged.safetensors")
    assert merged[INT[0]] == merged[INT[1]] == Raw("F8_E4M3", (10,), bytes(range(10)))
    assert "transformer.blocks.1.mlp.fc1.bias" not in merged


def test_a_checkpoint_of_float8_can_be_inspected(tmp_path: Path) -> None:
    raw = {key: Raw("F8_E5M2", a.shape, bytes(a.size)) for key, a in tiny().items()}
    save(tmp_path / "ckpt.safetensors", raw)
    assert "specific" in ok("inspect", tmp_path / "ckpt.safetensors").out


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_merge_when_allowed(value: float, tmp_path: Path) -> None:
    changed(**filled(value, KEY))(tmp_path)
    ok("merge", tmp_path / "ckpt.safetensors", "--allow-non-finite")
    merged = load(tmp_path / "ckpt.merged.safetensors")["transformer.blocks.1.mlp.fc1.weight"]
    assert not np.isfinite(merged.flat[3])
    assert np.isfinite(np.delete(merged.reshape(-1), 3)).all()


def test_copied_keys_pass_as_they_are_with_nan(tmp_path: Path) -> None:
    copied = {
        "transformer.norm.weight": np.full(6, np.nan, np.float32),
        "logit_scale": np.array(np.inf, np.float32),
    }
    changed(**copied)(tmp_path)
    ok("merge", tmp_path / "ckpt.safetensors")
    merged = load(tmp_path / "ckpt.merged.safetensors")
    assert all(merged[key].tobytes() == value.tobytes() for key, value in copied.items())
    ok("merge", tmp_path / "ckpt.safetensors", "--force", "--dtype", "float16")
    merged = load(tmp_path / "ckpt.merged.safetensors")
    assert np.isnan(merged["transformer.norm.weight"]).all()


def test_a_single_expert_left_passes_with_nan(tmp_path: Path) -> None:
    key = expert_key(2, "mlp.fc1.weight", "vl")
    changed(**filled(np.nan, key))(tmp_path)
    ok("merge", tmp_path / "ckpt.safetensors", "--experts-for", "vqa")
    raw = read_raw(tmp_path / "ckpt.merged.safetensors")["transformer.blocks.2.mlp.fc1.weight"]
    assert raw == read_raw(tmp_path / "ckpt.safetensors")[key]


def test_overflow_passes_when_allowed(tmp_path: Path) -> None:
    changed(**{KEY: tiny()[KEY] + np.float32(2e5)})(tmp_path)
    ok("merge", tmp_path / "ckpt.safetensors", "--dtype", "float16", "--allow-non-finite")
    assert np.isinf(load(tmp_path / "ckpt.merged.safetensors")["transformer.blocks.1.mlp.fc1.weight"]).all()


def test_an_error_keeps_the_old_output(tmp_path: Path) -> None:
    changed(**filled(np.nan, KEY))(tmp_path)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    fails(1, "merge", tmp_path / "ckpt.safetensors", "-o", out, "--force")
    assert out.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_zero_size_tensors_pass(tmp_path: Path) -> None:
    tensors = tiny() | dict.fromkeys(INT, np.ones(0, np.float32)) | {"nothing": np.ones((0, 3), np.float32)}
    save(tmp_path / "ckpt.safetensors", tensors)
    ok("merge", tmp_path / "ckpt.safetensors")
    merged = load(tmp_path / "ckpt.merged.safetensors")
    assert merged["transformer.blocks.1.mlp.fc1.bias"].shape == (0,)
    assert merged["nothing"].shape == (0, 3)
    ok("distance", tmp_path / "ckpt.safetensors")


def test_a_line_end_in_a_name_breaks_no_message(tmp_path: Path) -> None:
    key = "transformer.blocks.0.\nerror: all is well"
    path = save(tmp_path / "two\nlines.safetensors", {**tiny(), key: np.zeros(2, np.float32)})
    for command in (("merge",), ("distance",), ("inspect", "--keys"), ("doctor",), ("merge", "--dry-run")):
        found = vlmerge(*command[:1], path, *command[1:])
        assert "\\n" in found.out + found.err
        assert not [line for line in (found.out + found.err).splitlines() if line.startswith(("error: all", "lines.s"))]
