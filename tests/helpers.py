"""Tiny seeded checkpoints, an independent reader and writer of their files, and the command line in a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from typer.testing import CliRunner

from vlmerge_cli.cli import app

ROOT = Path(__file__).parent.parent
MODULES = {
    "specific": ("attn", "norm1", "mlp", "norm2"),
    "custom-attn": ("attn", "norm1"),
    "custom-ffn": ("mlp", "norm2"),
    "custom-ln": ("norm1", "norm2"),
    "agnostic": (),
}
NUMPY = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
NAMES = {dtype: name for name, dtype in NUMPY.items()}

Tensors = dict[str, np.ndarray]


class Raw(NamedTuple):
    """A tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


# --- files, read and written without the package ---


def encode(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file, tensors in the order given; values are arrays or Raw."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, start = [], 0
    for key, value in tensors.items():
        raw = value if isinstance(value, Raw) else Raw(NAMES[value.dtype], value.shape, value.tobytes())
        stop = start + len(raw.data)
        entries[key] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [start, stop]}
        parts.append(raw.data)
        start = stop
    return with_header(json.dumps(entries).encode(), b"".join(parts))


def with_header(text: bytes, body: bytes = b"") -> bytes:
    """A file with exactly this header text."""
    return len(text).to_bytes(8, "little") + text + body


def save(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(tensors, metadata))
    return path


def save_sharded(folder: Path, tensors: Mapping[str, Any], num_shards: int = 2) -> Path:
    """A folder with an index and shards that take turns at the keys."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {key: value for place, (key, value) in enumerate(tensors.items()) if place % num_shards == number}
        save(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def read_raw(path: Path) -> dict[str, Raw]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    entries.pop("__metadata__", None)
    return {
        key: Raw(e["dtype"], tuple(e["shape"]), content[start + e["data_offsets"][0] : start + e["data_offsets"][1]])
        for key, e in entries.items()
    }


def metadata_of(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    found: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return found


def load(path: Path) -> Tensors:
    """Arrays of a file, or of every shard of a folder."""
    paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {
        key: np.frombuffer(raw.data, NUMPY[raw.dtype]).reshape(raw.shape)
        for one in paths
        for key, raw in read_raw(one).items()
    }


# --- tiny checkpoints of the published layout ---


def experts_of(layer: int, top: int) -> tuple[str, ...]:
    return ("v", "l", "vl") if layer >= top else ("v", "l")


def slot_shapes(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn.qkv.weight": (3 * width, width),
        "attn.q_bias": (width,),
        "attn.v_bias": (width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
    }


def expert_key(layer: int, name: str, expert: str) -> str:
    module, _, rest = name.partition(".")
    return f"transformer.blocks.{layer}.{module}.{expert}.{rest}"


def merged_key(layer: int, name: str) -> str:
    return f"transformer.blocks.{layer}.{name}"


def tiny(
    architecture: str = "specific",
    *,
    layers: int = 3,
    top: int = 2,
    width: int = 6,
    hidden: int = 10,
    dtype: Any = np.float32,
    seed: int = 0,
) -> Tensors:
    """A small checkpoint: ``v`` and ``l`` everywhere, ``vl`` from layer ``top`` on, other keys of each type."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    tensors: Tensors = {
        "logit_scale": floats(),
        "text_embeddings.word_embeddings.weight": floats(7, width),
        "transformer.norm.weight": floats(width),
        "relative_position_index": np.arange(9, dtype=np.int64).reshape(3, 3),
    }
    for layer in range(layers):
        tensors[merged_key(layer, "gamma_1")] = floats(width)
        tensors[merged_key(layer, "gamma_2")] = floats(width)
        for name, shape in slot_shapes(width, hidden).items():
            if name.partition(".")[0] in MODULES[architecture]:
                for expert in experts_of(layer, top):
                    tensors[expert_key(layer, name, expert)] = floats(*shape)
            else:
                tensors[merged_key(layer, name)] = floats(*shape)
    return tensors


def tiny_grams(tensors: Mapping[str, Any], seed: int = 1, rows: int = 64) -> Tensors:
    """Full float64 Grams of every per-expert linear weight, under the published names."""
    rng = np.random.default_rng(seed)
    grams: Tensors = {}
    for key, value in tensors.items():
        parts = key.split(".")
        if parts[-1] == "weight" and np.ndim(value) == 2 and len(parts) == 7 and parts[4] in ("v", "l", "vl"):
            x = rng.standard_normal((rows, value.shape[1]))
            stem = key.removesuffix(".weight")
            grams[stem.removesuffix(".qkv")] = x.T @ x
    return grams


def tiny_base(tensors: Mapping[str, np.ndarray], seed: int = 2) -> Tensors:
    """Agnostic seed weights of the shapes of ``tensors``."""
    rng = np.random.default_rng(seed)
    base: Tensors = {}
    for key, value in tensors.items():
        parts = key.split(".")
        name = ".".join(p for place, p in enumerate(parts) if not (place == 4 and p in ("v", "l", "vl")))
        if value.dtype.kind != "i":
            base[name] = rng.standard_normal(value.shape).astype(value.dtype)
    return base


def save_all(folder: Path, tensors: Mapping[str, Any], name: str = "ckpt") -> Path:
    """A checkpoint with its Grams beside it and its base as ``base.safetensors``."""
    save(folder / f"{name}.grams.safetensors", tiny_grams(tensors))
    save(folder / "base.safetensors", tiny_base({k: v for k, v in tensors.items() if isinstance(v, np.ndarray)}))
    return save(folder / f"{name}.safetensors", tensors)


#: How each method is asked for on a checkpoint that ``save_all`` wrote; a new method adds its line here only if
#: it needs more than its name.
ARGUMENTS: dict[str, tuple[str, ...]] = {"arithmetic": ("--base", "{folder}/base.safetensors")}


def method_arguments(name: str, folder: Path) -> list[str]:
    return ["-m", name, *(part.format(folder=folder) for part in ARGUMENTS.get(name, ()))]


# --- the command line ---


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def vlmerge(*arguments: object) -> Result:
    """The command line in this process; anything but a clean exit fails the test."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise AssertionError(f"a traceback: {found.exception!r}") from found.exception
    return Result(found.exit_code, found.stdout, found.stderr)


def ok(*arguments: object) -> Result:
    """A command that must succeed."""
    result = vlmerge(*arguments)
    assert result.code == 0, result.err
    return result


def fails(code: int, *arguments: object) -> str:
    """The one message of a command that must end with ``code``."""
    result = vlmerge(*arguments)
    assert result.code == code, (result.code, result.out, result.err)
    assert result.err.lower().count("error:") == 1, result.err
    assert "Traceback" not in result.err + result.out
    return result.err


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vlmerge_cli", *map(str, arguments)]


def run(
    *arguments: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**(env or {})), text=True, capture_output=True, **options
    )


def run_python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which can import the package and these helpers."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    argv: Sequence[str] = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(argv, env={**os.environ, "PYTHONPATH": paths}, text=True, capture_output=True, **options)


def leftovers(folder: Path) -> list[str]:
    """Temporaries that a run left in a folder."""
    return sorted(p.name for p in folder.iterdir() if p.name.endswith((".partial", ".old")))


@cache
def positives(dtype: str) -> np.ndarray:
    """Every number of a 16-bit type from 0 up, in float64."""
    with np.errstate(invalid="ignore"):
        every = np.arange(0x8000, dtype=np.uint16).view(NUMPY[dtype]).astype(np.float64)
    return every[np.isfinite(every)]


def nearest(value: float, dtype: str) -> float:
    """The number of a narrow type that is nearest, of two equally near ones the even one: by exact fractions."""
    finite = positives(dtype)
    place = min(int(np.searchsorted(finite, abs(value))), len(finite) - 1)
    below, above = (Fraction(float(finite[max(place - step, 0)])) for step in (1, 0))
    distances = abs(Fraction(abs(value)) - below), abs(Fraction(abs(value)) - above)
    if distances[0] == distances[1]:
        return float(np.copysign(float(below if (place - 1) % 2 == 0 else above), value))
    return float(np.copysign(float(min(zip(distances, (below, above), strict=True))[1]), value))
