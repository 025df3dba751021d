"""Bytes of a checkpoint as arrays to compute with, and back: what an engine needs, and how numpy does it.

Narrow floats are widened to float32 (or float64 where one is involved) and results are rounded once.
Each worker thread has its own; buffers are reused, because a fresh page costs more than merging it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from vlmerge_cli.checkpoint.dtypes import DTYPES, num_bytes
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.engine.chunks import CHUNK_ELEMENTS

NumpyArray = np.ndarray[Any, Any]

#: The exponent bits of a type, which are all set in its infinities and NaNs alone.
EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000}


class Arrays(Protocol):
    """What an engine needs of a device."""

    chunk_elements: int

    def load(self, name: str, source: NamedTensors, key: str, first: int, count: int, wide: str) -> Any:
        """``count`` elements of ``key`` from ``first`` on, flat, as ``wide`` (``float32`` or ``float64``).

        The array is valid until the next load under the same ``name``.
        """

    def store(self, array: Any, dtype: str) -> NumpyArray:
        """The flat array's bytes in a file's ``dtype``; valid until the next store."""

    def num_non_finite(self, array: Any) -> int:
        """How many elements are NaN or infinite."""

    def computing(self) -> AbstractContextManager[object]:
        """To compute with loaded arrays in: on a GPU in the stream that they come from and are stored from."""


class Buffers:
    """Named, reused byte buffers that grow to what was asked of them."""

    def __init__(self) -> None:
        self._held: dict[str, NumpyArray] = {}

    def get(self, name: str, size: int) -> NumpyArray:
        held = self._held.get(name)
        if held is None or len(held) < size:
            held = self._held[name] = np.zeros(size, np.uint8)
        return held[:size]


class NumpyArrays:
    """Arrays in the processor's cache."""

    chunk_elements = CHUNK_ELEMENTS

    def __init__(self) -> None:
        self._buffers = Buffers()

    def load(self, name: str, source: NamedTensors, key: str, first: int, count: int, wide: str) -> NumpyArray:
        dtype = source.tensors[key].dtype
        raw = self._buffers.get(name, num_bytes(dtype, count))
        source.read_into(key, raw, num_bytes(dtype, first))
        if DTYPES[dtype].numpy == wide:
            return raw.view(wide)
        out = self._buffers.get(f"{name} as {wide}", count * np.dtype(wide).itemsize).view(wide)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            np.copyto(out, raw.view(numpy_type(dtype)))
        return out

    def computing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def store(self, array: NumpyArray, dtype: str) -> NumpyArray:
        return narrow(array, dtype)

    def num_non_finite(self, array: NumpyArray) -> int:
        return int(array.size - np.count_nonzero(np.isfinite(array)))


def numpy_type(dtype: str) -> Any:
    """The numpy type of a file's floating ``dtype``."""
    if dtype == "BF16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return DTYPES[dtype].numpy


def narrow(array: NumpyArray, dtype: str) -> NumpyArray:
    """Bytes (uint8) of the values rounded to a file's ``dtype``; no copy where they already have it."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if DTYPES[dtype].numpy == flat.dtype.name:
        return flat.view(np.uint8)
    if flat.dtype == np.float64 and dtype == "BF16":
        flat = rounded_to_odd(flat)
    with np.errstate(over="ignore", invalid="ignore"):
        return flat.astype(numpy_type(dtype)).view(np.uint8)


def rounded_to_odd(array: NumpyArray) -> NumpyArray:
    """float64 to float32 so that rounding once more to a type of up to 22 bits is as rounding once.

    Towards zero, and the last bit is set where something was lost (Boldo and Melquiond, 2008): conversions to
    bfloat16 go through float32, where rounding to the nearest would put a value on a tie that is not one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        near = array.astype(np.float32)
        bits = near.view(np.uint32)
        bits -= np.abs(near, dtype=np.float64) > np.abs(array)
        bits |= near != array
    return near


def is_finite(data: NumpyArray, dtype: str) -> bool:
    """Whether the bytes of a file's floating ``dtype`` hold no NaN and no infinity.

    As whole numbers those are the largest of their sign: two maxima tell, and nothing is allocated.
    """
    size, least = DTYPES[dtype].bits // 8, EXPONENTS[dtype]
    if not len(data):
        return True
    signed, unsigned = data.view(f"i{size}").max(), data.view(f"u{size}").max()
    return bool(signed < least and unsigned < least | 1 << (8 * size - 1))


def count_non_finite(data: NumpyArray, dtype: str) -> int:
    """How many NaN and infinities the bytes of a file's floating ``dtype`` hold."""
    exponent = np.uint64(EXPONENTS[dtype]).astype(f"u{DTYPES[dtype].bits // 8}")
    return int(np.count_nonzero(data.view(exponent.dtype) & exponent == exponent))
