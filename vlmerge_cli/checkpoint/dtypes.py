"""The element types of the safetensors format, as a table; no numpy and no torch needed to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlmerge_cli.errors import UsageError, nearest

Kind = Literal["float", "small float", "integer", "boolean", "complex"]


@dataclass(frozen=True)
class DType:
    """``bits`` of one element; ``numpy`` is the name that numpy knows its bytes by (empty: only bytes)."""

    name: str
    bits: int
    kind: Kind
    numpy: str = ""


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("F64", 64, "float", "float64"),
        DType("F32", 32, "float", "float32"),
        DType("F16", 16, "float", "float16"),
        DType("BF16", 16, "float", "bfloat16"),
        DType("F8_E4M3", 8, "small float"),
        DType("F8_E4M3FNUZ", 8, "small float"),
        DType("F8_E5M2", 8, "small float"),
        DType("F8_E5M2FNUZ", 8, "small float"),
        DType("F8_E8M0", 8, "small float"),
        DType("F6_E2M3", 6, "small float"),
        DType("F6_E3M2", 6, "small float"),
        DType("F4", 4, "small float"),
        DType("I64", 64, "integer", "int64"),
        DType("I32", 32, "integer", "int32"),
        DType("I16", 16, "integer", "int16"),
        DType("I8", 8, "integer", "int8"),
        DType("U64", 64, "integer", "uint64"),
        DType("U32", 32, "integer", "uint32"),
        DType("U16", 16, "integer", "uint16"),
        DType("U8", 8, "integer", "uint8"),
        DType("BOOL", 8, "boolean", "bool"),
        DType("C64", 64, "complex", "complex64"),
    )
}

#: What ``--dtype`` may name, and what it is called in a file.
FLOATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def stored_type(name: str) -> str:
    """What a file calls the type that ``--dtype`` names. Raises UsageError."""
    if name not in FLOATS:
        raise UsageError(f"--dtype {name}", fix=nearest(name, FLOATS))
    return FLOATS[name]


def is_float(name: str) -> bool:
    """Whether tensors of this type can be averaged (float64, float32, float16, bfloat16)."""
    return DTYPES[name].kind == "float"


def is_parameter(name: str) -> bool:
    """Whether elements of this type count as parameters: every floating one, float8 and smaller included."""
    return DTYPES[name].kind in ("float", "small float")


def num_bytes(name: str, num_elements: int) -> int:
    """Bytes of a tensor; ValueError when its sub-byte elements do not fill whole bytes."""
    bits = DTYPES[name].bits * num_elements
    if bits % 8:
        raise ValueError(f"{num_elements} elements of {name} do not fill whole bytes")
    return bits // 8
