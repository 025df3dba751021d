"""The header of a safetensors file: 8 bytes of length, then JSON. Read and checked without numpy or torch.

Format: https://huggingface.co/docs/safetensors (length little-endian, offsets relative to the data section).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vlmerge_cli.checkpoint import door
from vlmerge_cli.checkpoint.dtypes import DTYPES, num_bytes
from vlmerge_cli.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's own cap


class Spec(NamedTuple):
    """What a tensor is before it has a place in a file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.dtype, self.num_elements)


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: its type and shape, and its bytes ``start`` to ``stop`` of the whole file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start

    @property
    def spec(self) -> Spec:
        return Spec(self.dtype, self.shape)


@dataclass(frozen=True)
class Header:
    """``tensors`` in file order, free-form ``metadata``, and the header's own bytes (length included)."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def num_bytes(self) -> int:
        """Size of the whole file."""
        return max((tensor.stop for tensor in self.tensors.values()), default=len(self.raw))


def read(fd: int, name: str) -> Header:
    """Header of the open file ``fd``; ``name`` is for messages.

    Raises CheckpointError for a header that is cut off, too long, not JSON, or that does not describe the
    file's bytes exactly: every byte of the data section belongs to one tensor.
    """
    size = os.fstat(fd).st_size
    prefix = os.pread(fd, 8, 0)
    if len(prefix) < 8:
        raise CheckpointError(f"not a safetensors file: only {size} bytes", where=name, fix=door.AGAIN)
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise _no_header(os.pread(fd, door.HEAD_BYTES, 0), length, size, name)
    text = os.pread(fd, length, 8)
    if len(text) < length:
        raise CheckpointError("the file ends inside its header", where=name)
    return parse(prefix + text, size, name)


def _no_header(head: bytes, length: int, size: int, name: str) -> CheckpointError:
    """Why what should be a header's length cannot be one."""
    known = door.contents(head)
    if known is not None:
        return CheckpointError(f"not a safetensors file but {known[0]}", where=name, fix=known[1])
    limit = "the file" if length > size - 8 else f"the cap of {MAX_HEADER_BYTES} bytes"
    over = f" exceeds {limit}" if length >= 2 else ""
    return CheckpointError(f"not a safetensors file: header length {length}{over}", where=name)


def parse(raw: bytes, file_size: int, name: str) -> Header:
    """Header from its bytes (length included), checked against the size of its file."""
    try:
        entries = json.loads(raw[8:].decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is not valid JSON: {error}", where=name) from None
    if not isinstance(entries, dict):
        raise CheckpointError("the header is not a JSON object", where=name)
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("the header's __metadata__ is not a map of strings", where=name)
    try:
        "".join((*entries, *metadata, *metadata.values())).encode()
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair, which no file can hold again
        raise CheckpointError("the header holds names that are not valid Unicode", where=name) from None
    tensors = {key: _tensor(key, entry, len(raw), name) for key, entry in entries.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_coverage(ordered, len(raw), file_size, name)
    return Header(ordered, metadata, raw)


def build(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> Header:
    """The header of a file that will hold ``specs``.

    Tensors are laid out by falling element size, then by name, so that each is aligned and the bytes of a
    file do not depend on the order of its keys; the data section starts at a multiple of 8.
    """
    order = sorted(specs, key=lambda key: (-DTYPES[specs[key].dtype].bits, key))
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position, places = 0, {}
    for key in order:
        spec = specs[key]
        places[key] = (position, position + spec.num_bytes)
        position += spec.num_bytes
        entries[key] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": list(places[key])}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    raw = len(text).to_bytes(8, "little") + text
    shift = len(raw)
    tensors = {
        key: Tensor(specs[key].dtype, tuple(specs[key].shape), start + shift, stop + shift)
        for key, (start, stop) in places.items()
    }
    return Header(tensors, dict(metadata), raw)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in names if names.count(key) > 1)!r}")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _tensor(key: str, entry: object, data_start: int, name: str) -> Tensor:
    def broken(why: str) -> CheckpointError:
        return CheckpointError(f"header entry of {key!r}: {why}", where=name)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise broken("expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise broken(f"unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise broken(f"shape {shape!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise broken(f"data_offsets {offsets!r} are not two positions")
    try:
        expected = num_bytes(dtype, math.prod(shape))
    except ValueError as error:
        raise broken(str(error)) from None
    if offsets[1] - offsets[0] != expected:
        held = offsets[1] - offsets[0]
        raise broken(f"{dtype} of shape {tuple(shape)} takes {expected} bytes, data_offsets hold {held}")
    return Tensor(dtype, tuple(shape), offsets[0] + data_start, offsets[1] + data_start)


def _check_coverage(tensors: Mapping[str, Tensor], data_start: int, file_size: int, name: str) -> None:
    """No overlap, no hole, nothing past the end and nothing left over."""
    position, before = data_start, ""
    for key, tensor in tensors.items():
        if tensor.start < position:
            raise CheckpointError(f"{key!r} overlaps {before!r}", where=name)
        if tensor.start > position:
            gap = tensor.start - position
            raise CheckpointError(f"{gap} bytes before {key!r} belong to no tensor", where=name)
        position, before = tensor.stop, key
    if position > file_size:
        fix = "it was cut off: copy or download it again"
        raise CheckpointError(f"{position} bytes expected, {file_size} found", where=name, fix=fix)
    if position < file_size:
        raise CheckpointError(f"{file_size - position} bytes at the end belong to no tensor", where=name)
