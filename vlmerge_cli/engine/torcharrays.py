"""Arrays on a torch device: read into pinned memory, with copies and arithmetic on CUDA streams of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.engine.arrays import NumpyArray

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "float64": torch.float64,
    "float32": torch.float32,
}
ALIGNMENT = 256  # of tensors that are copied together


@dataclass(frozen=True)
class Extent:
    """``count`` elements of ``key`` from ``first`` on."""

    source: NamedTensors
    key: str
    first: int
    count: int

    @property
    def dtype(self) -> str:
        return self.source.tensors[self.key].dtype

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.dtype, self.count)

    def read(self, host: Tensor) -> None:
        """Fill the first bytes of a block on the CPU."""
        self.source.read_into(self.key, host.numpy()[: self.num_bytes], num_bytes(self.dtype, self.first))


class Stream:
    """A CUDA stream; on the CPU nothing, for there all is done when it is asked for."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        self._entered.append(nullcontext() if self._stream is None else torch.cuda.stream(self._stream))
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)

    def after(self, other: Stream) -> None:
        """What comes next here waits for all that is in the other stream now."""
        if self._stream is not None and other._stream is not None:
            self._stream.wait_stream(other._stream)

    def mark(self) -> Callable[[], None]:
        """A function that waits until all that is in the stream now is done."""
        if self._stream is None:
            return lambda: None
        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event.synchronize


class Streams:
    """One thread's streams on a device: copies there, arithmetic, copies back."""

    def __init__(self, device: str) -> None:
        self.there, self.compute, self.back = (Stream(torch.device(device)) for _ in range(3))


def load_linalg(device: str) -> None:
    """Have PyTorch load its solvers for GPUs: left to threads, two at once would fail (pytorch/pytorch#90613)."""
    torch.linalg.cholesky(torch.ones(1, 1, device=device))


class TorchArrays:
    """Arrays on a device. ``send`` and ``fetch`` move many at once and do not wait; ``load`` and ``store`` do.

    The buffers are reused: the next ``send`` may come when what the last one was for has been fetched.
    """

    chunk_elements = 1 << 21

    def __init__(self, device: str, streams: Streams | None = None) -> None:
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self.streams = streams or Streams(device)
        self._blocks: dict[str, Tensor] = {}
        self._sent: dict[Extent, Tensor] = {}
        self._leaving: Tensor | None = None

    def send(self, extents: Sequence[Extent]) -> None:
        """Read all of these and copy them to the device together; ``load`` finds them there."""
        places, size = [], 0
        for extent in extents:
            places.append(size)
            size += -(-extent.num_bytes // ALIGNMENT) * ALIGNMENT
        host, there = self._block("in", size, pinned=True), self._block("there", size)
        for extent, place in zip(extents, places, strict=True):
            extent.read(host[place:])
        with self.streams.there:
            there.copy_(host, non_blocking=True)
        self.streams.compute.after(self.streams.there)
        self._sent = {
            extent: there[place : place + extent.num_bytes] for extent, place in zip(extents, places, strict=True)
        }

    def fetch(self, results: Sequence[Tensor]) -> Callable[[], NumpyArray]:
        """Copy results (bytes) back together; the function waits for them and gives them one after the other."""
        if not results:
            return lambda: np.empty(0, np.uint8)
        with self.streams.compute:
            leaving = results[0] if len(results) == 1 else torch.cat(list(results))
        self.streams.back.after(self.streams.compute)
        host = self._block("out", leaving.numel(), pinned=True)
        with self.streams.back:
            host.copy_(leaving, non_blocking=True)
        wait = self.streams.back.mark()
        self._leaving = leaving  # its memory is not free before the copy is done

        def arrived() -> NumpyArray:
            wait()
            found: NumpyArray = host.numpy()
            return found

        return arrived

    def load(self, name: str, source: NamedTensors, key: str, first: int, count: int, wide: str) -> Tensor:
        extent = Extent(source, key, first, count)
        held = self._sent[extent] if extent in self._sent else self._read(name, extent)
        with self.streams.compute:
            return held.view(TYPES[extent.dtype]).to(TYPES[wide])

    def store(self, array: Tensor, dtype: str) -> NumpyArray:
        with self.streams.compute:
            rounded = self.rounded(array, dtype)
        return self.fetch([rounded])()

    def computing(self) -> AbstractContextManager[object]:
        return self.streams.compute

    def num_non_finite(self, array: Tensor) -> int:
        with self.streams.compute:
            return int((~torch.isfinite(array)).sum())

    @staticmethod
    def rounded(array: Tensor, dtype: str) -> Tensor:
        """The bytes of the values in a file's ``dtype``."""
        flat = array.reshape(-1)
        if flat.dtype == torch.float64 and dtype in ("F16", "BF16"):
            flat = rounded_to_odd(flat)
        return flat.to(TYPES[dtype]).contiguous().view(torch.uint8)

    def _read(self, name: str, extent: Extent) -> Tensor:
        """On the device when it returns, in memory of its own."""
        host = self._block(name, extent.num_bytes, pinned=True)
        extent.read(host)
        with self.streams.compute:
            there = host.to(self._device, non_blocking=True, copy=True)
        self.streams.compute.mark()()  # the pinned block is free again
        return there

    def _block(self, name: str, size: int, pinned: bool = False) -> Tensor:
        """The first bytes of a buffer that grows to what is asked of it: pinned, or on the device."""
        held = self._blocks.get(name)
        if held is None or held.numel() < size:
            if pinned:
                held = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)
            else:
                held = torch.empty(size, dtype=torch.uint8, device=self._device)
            self._blocks[name] = held
        return held[:size]


def rounded_to_odd(array: Tensor) -> Tensor:
    """What engine.arrays.rounded_to_odd does, on any device."""
    near = array.to(torch.float32)
    bits = near.view(torch.int32)
    bits -= (near.double().abs() > array.abs()).to(torch.int32)
    bits |= (near.double() != array).to(torch.int32)
    return near
