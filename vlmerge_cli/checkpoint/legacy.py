"""PyTorch files (.ckpt .pt .pth .bin) as named tensors, without ever running what is in them.

Such a file is a pickle, a small program. It is read with ``torch.load(weights_only=True)``, which runs none
of it beyond putting tensors and plain containers together, and with nothing allowed besides; a file that
asks for more is refused. Tensors are views of the mapped file, so memory does not grow with it.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import torch

from vlmerge_cli.checkpoint import door, writer
from vlmerge_cli.checkpoint.door import PICKLES
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.small_files import companions
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.errors import CheckpointError
from vlmerge_cli.result_base import Result

SINGLE_NAME = "pytorch_model.bin"
INDEX_NAME = "pytorch_model.bin.index.json"

#: Entries that hold a model's weights: Lightning's, that of many papers (and BEiT), DeepSpeed's.
WRAPPERS = ("state_dict", "model", "module")
#: What wrapping a module puts before all of its names.
PREFIXES = ("module.", "model.", "_orig_mod.")

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
    torch.int8: "I8", torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip

#: What the shapes of weights tell of their model; None: nothing.
ConfigOf: TypeAlias = Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any] | None]


@dataclass(frozen=True)
class Legacy:
    """``tensors`` by name; ``unwrapped``: the entries and the prefix they were found behind, outermost first;
    ``left_out``: what is no tensor of the model, by name, with its type."""

    tensors: dict[str, torch.Tensor]
    unwrapped: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary(Result):
    """What a conversion wrote; ``tied``: names that shared memory and are now each written out."""

    source: str
    target: str
    num_tensors: int
    num_bytes: int
    unwrapped: tuple[str, ...]
    left_out: Mapping[str, str]
    tied: tuple[tuple[str, ...], ...]


def is_legacy(path: Path) -> bool:
    """Whether ``path`` is, by its name or by what its folder holds, in PyTorch's own format."""
    if path.is_dir():
        has_safetensors = any(path.glob("*.safetensors"))
        return not has_safetensors and any((path / name).exists() for name in (SINGLE_NAME, INDEX_NAME))
    return path.suffix in PICKLES or path.name.endswith(".bin.index.json")


def open_legacy(path: Path) -> Legacy:
    """One file, an index of shards, or a folder with either.

    Raises CheckpointError for a file that is missing, broken, needs code to load, or holds no tensors.
    """
    if path.is_dir():
        index = path / INDEX_NAME
        path = index if index.exists() else path / SINGLE_NAME
    if not path.exists():
        raise door.no_such(str(path))
    if not path.is_file():
        raise door.not_a_file(path)
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is in safetensors already")
    if path.name.endswith(".index.json"):
        return _open_index(path)
    return _unwrap(_load(path), str(path))


def convert(
    source: Path, target: Path, *, force: bool = False, sync: bool = True, config_of: ConfigOf = lambda _: None
) -> Summary:
    """Write the tensors of ``source`` as safetensors: a file, or a folder with its companions.

    ``config_of`` says what the shapes tell of the model, which is kept with the weights.
    Every tensor is kept, those that share memory each on its own. Memory: the mapped file and one tensor.
    Raises CheckpointError (see open_legacy) and UsageError for a target that may not be written.
    """
    place = Target(target, force=force, sync=sync)
    place.check([source, *source.iterdir()] if source.is_dir() else [source])
    legacy = open_legacy(source)
    specs = {key: _spec(key, tensor, str(source)) for key, tensor in legacy.tensors.items()}
    about: dict[str, Any] = {"converted_from": source.name, "unwrapped": list(legacy.unwrapped)}
    config = config_of({key: spec.shape for key, spec in specs.items()})
    if config is not None:
        about["config"] = config
    metadata = {"format": "pt", "vlmerge": json.dumps(about, sort_keys=True)}
    extras = companions(source) if source.is_dir() and not place.is_file else {}
    with writer.create(place, specs, metadata, extras) as output:
        for key in sorted(legacy.tensors, key=lambda key: legacy.tensors[key].data_ptr()):  # as they lie in the file
            output.write(key, 0, as_bytes(legacy.tensors[key]))
    num_bytes = sum(spec.num_bytes for spec in specs.values())
    return Summary(
        str(source),
        str(target),
        len(specs),
        num_bytes,
        legacy.unwrapped,
        legacy.left_out,
        _tied(legacy.tensors),
    )


# --- reading ------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)  # files from before PyTorch 1.6 are not, and cannot be mapped
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        needs = f" ({found[1]})" if found else ""
        fix = "where you trust it, load it and save its state_dict alone"
        what = f"the file needs code to load{needs}, and none is run here"
        stranger, remedy = _strange(path)
        if remedy or (not found and "Unsupported" not in str(error) and "WeightsUnpickler" not in str(error)):
            what, fix = stranger, remedy
        raise CheckpointError(what, where=str(path), fix=fix) from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OSError,
    ) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what, fix = _strange(path)
        if fix:
            raise CheckpointError(what, where=str(path), fix=fix) from None
        raise CheckpointError(f"cannot be read as a PyTorch checkpoint: {why}", where=str(path)) from None


def _strange(path: Path) -> tuple[str, str]:
    """What a file is that is not PyTorch's, and what to do about it."""
    with open(path, "rb") as file:
        head = file.read(door.HEAD_BYTES)
    if head[8:10] == b'{"':
        return "not a PyTorch checkpoint but safetensors already", "name it .safetensors"
    known = None if head.startswith((b"PK", b"\x80")) else door.contents(head)
    return ("not a PyTorch checkpoint", "") if known is None else (f"not a PyTorch checkpoint but {known[0]}", known[1])


def _unwrap(loaded: Any, where: str) -> Legacy:
    """The named tensors in what a file held."""
    unwrapped: list[str] = []
    left_out: dict[str, str] = {}
    while isinstance(loaded, Mapping):
        inside = next((name for name in WRAPPERS if _holds_tensors(loaded.get(name))), None)
        if inside is None:
            break
        left_out |= {_path(unwrapped, key): _kind(value) for key, value in loaded.items() if key != inside}
        unwrapped.append(inside)
        loaded = loaded[inside]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"no named tensors, but {_kind(loaded)}", where=where)
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    left_out |= {_path(unwrapped, key): _kind(value) for key, value in loaded.items() if key not in tensors}
    if not tensors:
        entries = ", ".join(f"{name} ({kind})" for name, kind in list(left_out.items())[:5]) or "none"
        raise CheckpointError(f"no named tensors; its entries: {entries}", where=where)
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
            unwrapped.append(prefix)
    return Legacy(tensors, tuple(unwrapped), left_out)


def _open_index(index: Path) -> Legacy:
    """All shards of an index, which may name files of its own folder only."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(weight_map.values()))
        inside = all(_is_inside(file) for file in files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError("the index has no weight_map of file names", where=str(index)) from None
    if not inside:
        outside = next(file for file in files if not _is_inside(file))
        raise CheckpointError(f"the index names a file outside its folder: {outside!r}", where=str(index))
    tensors: dict[str, torch.Tensor] = {}
    left_out: dict[str, str] = {}
    for file in files:
        path = index.parent / file
        if not path.is_file():
            raise CheckpointError(f"shard is missing: {file}", where=str(index.parent))
        loaded = _load(path)
        if not isinstance(loaded, Mapping):
            raise CheckpointError(f"no named tensors, but {_kind(loaded)}", where=str(path))
        for key, value in loaded.items():
            if weight_map.get(key) != file or not isinstance(value, torch.Tensor):
                left_out[f"{file}: {key}"] = _kind(value)
            else:
                tensors[key] = value
    missing = [key for key in weight_map if key not in tensors]
    if missing:
        fix = "copy or download its shards again"
        raise CheckpointError(f"no shard holds {missing[0]!r}, which the index names", where=str(index), fix=fix)
    return Legacy(tensors, (), left_out)


def _is_inside(file: str) -> bool:
    parts = PurePosixPath(file)
    return bool(file) and not parts.is_absolute() and ".." not in parts.parts and "\\" not in file


def _holds_tensors(value: Any) -> bool:
    """Whether a wrapper's value is a model's weights, possibly wrapped again."""
    if not isinstance(value, Mapping):
        return False
    if any(isinstance(entry, torch.Tensor) for entry in value.values()):
        return True
    return any(_holds_tensors(value.get(name)) for name in WRAPPERS)


def _path(outer: list[str], key: object) -> str:
    return ".".join([*outer, str(key)])


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, Mapping | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


# --- writing ------------------------------------------------------------------------------------------------


def _spec(key: str, tensor: torch.Tensor, where: str) -> Spec:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CheckpointError(f"{key!r} is sparse or quantised, which safetensors cannot hold", where=where)
    if tensor.dtype not in DTYPES:
        name = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{key!r} is of type {name}, which safetensors cannot hold", where=where)
    return Spec(DTYPES[tensor.dtype], tuple(tensor.shape))


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's elements in order; without a copy where they lie in order."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data)


def _tied(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    """Groups of names whose tensors lie in one storage."""
    storages: dict[int, list[str]] = {}
    for key, tensor in tensors.items():
        if tensor.numel():
            storages.setdefault(tensor.untyped_storage().data_ptr(), []).append(key)
    return tuple(tuple(group) for group in storages.values() if len(group) > 1)
