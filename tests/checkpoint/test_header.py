from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import NAMES, encode, tiny, with_header
from vlmerge_cli.checkpoint import header
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.errors import CheckpointError

TINY = encode(tiny())


def parsed(content: bytes) -> header.Header:
    length = 8 + int.from_bytes(content[:8], "little")
    return header.parse(content[:length], len(content), "x")


def test_what_is_there_is_found() -> None:
    found = parsed(TINY)
    assert {k: (t.dtype, t.shape) for k, t in found.tensors.items()} == {
        k: (NAMES[v.dtype], v.shape) for k, v in tiny().items()
    }
    for key, tensor in found.tensors.items():
        assert TINY[tensor.start : tensor.stop] == tiny()[key].tobytes()
    assert found.num_bytes == len(TINY)


def test_tensors_come_in_file_order() -> None:
    entries = {
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "empty": {"dtype": "U8", "shape": [0], "data_offsets": [1, 1]},
    }
    assert list(parsed(with_header(json.dumps(entries).encode(), bytes(3))).tensors) == ["a", "empty", "b"]


def test_a_tensor_of_no_size_inside_another_is_an_overlap() -> None:
    entries = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "empty": {"dtype": "U8", "shape": [0], "data_offsets": [1, 1]},
    }
    with pytest.raises(CheckpointError, match="overlaps"):
        parsed(with_header(json.dumps(entries).encode(), bytes(3)))


@pytest.mark.parametrize("text", [b'{"__metadata__":null}', b'{"__metadata__":{}}  ', b"{}"])
def test_a_file_of_nothing(text: bytes) -> None:
    found = parsed(with_header(text))
    assert not found.tensors
    assert not found.metadata


def test_built_headers_parse_to_what_they_were_built_of() -> None:
    specs = {
        "f": Spec("F32", (2, 3)),
        "b": Spec("BF16", (5,)),
        "scalar": Spec("F64", ()),
        "none": Spec("F32", (0, 9)),
        "é": Spec("U8", (7,)),
        "flags": Spec("BOOL", (1,)),
        "small": Spec("F4", (2,)),
    }
    metadata = {"a": "ü", "b": '"'}
    built = header.build(specs, metadata)
    found = header.parse(built.raw, built.num_bytes, "x")
    assert {key: tensor.spec for key, tensor in found.tensors.items()} == specs
    assert found.tensors == built.tensors
    assert found.metadata == metadata
    assert len(built.raw) % 8 == 0
    for tensor in built.tensors.values():
        assert (tensor.start * 8) % header.DTYPES[tensor.dtype].bits == 0, "aligned to its element"


def test_the_order_of_keys_does_not_change_a_built_header() -> None:
    specs = {key: Spec(NAMES[value.dtype], value.shape) for key, value in tiny().items()}
    keys = list(specs)
    random.Random(0).shuffle(keys)
    assert (
        header.build({key: specs[key] for key in keys}, {"b": "1", "a": "2"}).raw
        == header.build(specs, {"a": "2", "b": "1"}).raw
    )


@pytest.mark.parametrize("seed", range(200))
def test_damage_is_an_error_or_harmless(seed: int, tmp_path: Path) -> None:
    """A few random bytes of the header changed: never another exception, never a tensor outside the file."""
    rng = random.Random(seed)
    content = bytearray(TINY)
    length = 8 + int.from_bytes(TINY[:8], "little")
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(length)] = rng.choice(b'\x00\xff"{}[]:,0123456789eEtfnu\\-. ')
    path = tmp_path / "x"
    path.write_bytes(content)
    with open(path, "rb") as file:
        try:
            found = header.read(file.fileno(), "x")
        except CheckpointError:
            return
    assert all(8 <= tensor.start <= tensor.stop <= len(content) for tensor in found.tensors.values())
    assert sum(tensor.num_bytes for tensor in found.tensors.values()) == len(content) - len(found.raw)


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_every_cut_is_an_error(cut: int, tmp_path: Path) -> None:
    size = len(TINY) * cut // 60
    (tmp_path / "x").write_bytes(TINY[:size])
    with open(tmp_path / "x", "rb") as file, pytest.raises(CheckpointError):
        header.read(file.fileno(), "x")


def test_the_cap_on_the_length(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with open(path, "wb") as file:
        file.write((header.MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(header.MAX_HEADER_BYTES + 100)  # sparse
    with open(path, "rb") as file, pytest.raises(CheckpointError, match="the cap of 100000000 bytes"):
        header.read(file.fileno(), "x")


def test_the_package_reads_what_safetensors_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1.5), "c": np.ones((0, 2), np.int8)}
    save_file(tensors, tmp_path / "x", {"k": "v"})
    with open(tmp_path / "x", "rb") as file:
        found = header.read(file.fileno(), "x")
    content = (tmp_path / "x").read_bytes()
    assert {key: content[t.start : t.stop] for key, t in found.tensors.items()} == {
        k: v.tobytes() for k, v in tensors.items()
    }
    assert found.metadata == {"k": "v"}


def test_safetensors_reads_what_the_package_builds() -> None:
    from safetensors.numpy import load

    built = header.build({"a": Spec("F32", (3,)), "b": Spec("I64", (2,))}, {"k": "v"})
    found = load(built.raw + np.arange(2).tobytes() + np.ones(3, np.float32).tobytes())
    assert found["a"].tolist() == [1, 1, 1]
    assert found["b"].tolist() == [0, 1]
