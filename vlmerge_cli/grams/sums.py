"""Running sums of XᵀX, one a key: exact enough, one triangle, in float64 between blocks of rows.

Rows are multiplied in blocks of at most 512 in the precision of the activations (float32, or float64 when
asked for), and the products are added up in float64: the relative error stays near 6e-8 for float32 however
many rows there are, where a float32 running sum gets worse with every block. Narrow inputs are multiplied in
float64 in any case: it takes no longer, and few products have no errors that cancel.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vlmerge_cli.errors import MergeError
from vlmerge_cli.methods.lapack import syrk
from vlmerge_cli.methods.linalg import packed_size

NumpyArray = np.ndarray[Any, Any]

CHUNK_ROWS = 512
#: Rows of a float64 product on a GPU.
EXACT_ROWS = 1 << 16
#: Compute capabilities whose float64 products are at least half as fast as float32: P100, V100, A100, H100, B200.
FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
#: Below this many columns products are made in float64.
NARROW = 256
#: Rows of the matrix that are kept together: all columns from the first one's diagonal on.
BAND_ROWS = 256


class Sums(Protocol):
    """Sums of XᵀX under names."""

    def add(self, key: str, rows: Tensor) -> None:
        """Add rowsᵀ rows, (n, width) of any floating type. Raises MergeError for rows that are not finite."""

    def flush(self) -> None:
        """Wait until everything that was added is in the sums. Raises what adding raises."""

    def triangle(self, key: str) -> NumpyArray:
        """The sum as the file holds it: its upper triangle packed by rows, float64, new."""

    def set(self, key: str, triangle: NumpyArray) -> None:
        """Start from this sum."""

    def close(self) -> None:
        """No more will be added; the sums can still be read."""


def make_sums(widths: Mapping[str, int], device: torch.device, precision: str, num_workers: int) -> Sums:
    """Sums that live on ``device``; ``precision`` is the least that products are computed in."""
    if device.type == "cpu":
        return HostSums(widths, precision, num_workers)
    return TorchSums(widths, device, precision)


def bands(width: int, band_rows: int = BAND_ROWS) -> list[tuple[int, int]]:
    """First and last row + 1 of each band of a triangle."""
    return [(first, min(first + band_rows, width)) for first in range(0, width, band_rows)]


def sum_bytes(width: int) -> int:
    """Memory of one sum."""
    return 8 * sum((last - first) * (width - first) for first, last in bands(width))


def product_type(width: int, precision: str) -> str:
    """What products of rows of this width are made in."""
    return "float64" if precision == "float64" or width < NARROW else "float32"


def scratch_bytes(widths: Iterable[int], precision: str, num_workers: int) -> int:
    """Memory beside the sums: each worker's product, and blocks of rows that wait for one."""
    product, block = _scratch_sizes(widths, precision)
    return num_workers * product + (2 * num_workers + 1) * block


def _scratch_sizes(widths: Iterable[int], precision: str) -> tuple[int, int]:
    """Bytes of the largest product and of the largest block of rows."""
    sizes = {width: np.dtype(product_type(width, precision)).itemsize for width in widths}
    return (
        max((size * width * width for width, size in sizes.items()), default=0),
        max((size * width * CHUNK_ROWS for width, size in sizes.items()), default=0),
    )


def pack_bands(parts: list[NumpyArray], width: int) -> NumpyArray:
    """Bands (rows first ... last-1, columns from first on) to the triangle packed by rows."""
    packed, at = np.empty(packed_size(width)), 0
    for part, (first, last) in zip(parts, bands(width, len(parts[0]) if parts else 1), strict=True):
        for row in range(last - first):
            size = width - first - row
            packed[at : at + size] = part[row, row:]
            at += size
    return packed


def unpack_bands(packed: NumpyArray, width: int, band_rows: int = BAND_ROWS) -> list[NumpyArray]:
    """The inverse; what is below the diagonal is 0."""
    parts, at = [], 0
    for first, last in bands(width, band_rows):
        part = np.zeros((last - first, width - first))
        for row in range(last - first):
            size = width - first - row
            part[row, row:] = packed[at : at + size]
            at += size
        parts.append(part)
    return parts


class HostSums:
    """On the CPU: a few workers multiply while the model goes on.

    Rows are copied when they are added, so what the model does to them afterwards has no effect. Blocks are
    added to a sum in the order in which they came, whichever worker is done first: the same rows give the
    same bytes with any number of workers.
    """

    def __init__(self, widths: Mapping[str, int], precision: str, num_workers: int) -> None:
        self._types = {key: product_type(width, precision) for key, width in widths.items()}
        self._sums = {key: [np.zeros((b - a, d - a)) for a, b in bands(d)] for key, d in widths.items()}
        self._widths = dict(widths)
        self._added, self._done = dict.fromkeys(widths, 0), dict.fromkeys(widths, 0)
        self._turn = threading.Condition()
        self._tasks: SimpleQueue[tuple[str, int, NumpyArray, int] | None] = SimpleQueue()
        self._buffers: SimpleQueue[NumpyArray] = SimpleQueue()
        product_bytes, block_bytes = _scratch_sizes(widths.values(), precision)
        for _ in range(2 * num_workers + 1):
            self._buffers.put(np.empty(block_bytes, np.uint8))
        self._error: BaseException | None = None
        self._workers = [
            threading.Thread(target=self._work, args=(product_bytes,), daemon=True) for _ in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def add(self, key: str, rows: Tensor) -> None:
        for part in rows.split(CHUNK_ROWS):
            buffer = self._buffers.get()
            self._check()
            torch.from_numpy(self._block(key, buffer, len(part))).copy_(part)
            self._tasks.put((key, self._added[key], buffer, len(part)))
            self._added[key] += 1

    def flush(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._error is not None or self._done == self._added)
        self._check()

    def triangle(self, key: str) -> NumpyArray:
        self.flush()
        return pack_bands(self._sums[key], self._widths[key])

    def set(self, key: str, triangle: NumpyArray) -> None:
        self.flush()
        self._sums[key] = unpack_bands(triangle, self._widths[key])

    def close(self) -> None:
        for _ in self._workers:
            self._tasks.put(None)
        for worker in self._workers:
            worker.join()
        self._workers = []

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _block(self, key: str, buffer: NumpyArray, count: int) -> NumpyArray:
        """(count, width) in the first bytes of a buffer."""
        flat = buffer.view(self._types[key])[: count * self._widths[key]]
        return flat.reshape(count, self._widths[key])

    def _work(self, product_bytes: int) -> None:
        scratch = np.zeros(product_bytes, np.uint8)
        while (task := self._tasks.get()) is not None:
            key, place, buffer, count = task
            try:
                if self._error is None:
                    self._multiply(key, place, buffer, count, scratch)
            except BaseException as error:
                with self._turn:
                    self._error = self._error or error
                    self._turn.notify_all()
            finally:
                self._buffers.put(buffer)

    def _multiply(self, key: str, place: int, buffer: NumpyArray, count: int, scratch: NumpyArray) -> None:
        width = self._widths[key]
        product = self._block(key, scratch, width)
        syrk(self._block(key, buffer, count), product)
        if not np.isfinite(product.diagonal()).all():
            raise not_finite(key)
        with self._turn:
            self._turn.wait_for(lambda: self._error is not None or self._done[key] == place)
            if self._error is not None:
                return
        for part, (first, last) in zip(self._sums[key], bands(width), strict=True):
            part += product[first:last, first:]
        with self._turn:
            self._done[key] += 1
            self._turn.notify_all()


class TorchSums:
    """On the device that runs the model: products by matrix multiplication, band by band.

    Wide bands, because a GPU wants large products; of a matrix of 3,072 columns 58 % are computed. float64 products
    go straight into the sums; a GPU that makes them as fast as others makes no others. Elsewhere float32 products are
    true float32: TF32 would round no narrower input, but its running sums are cut off, not rounded, 1e-6 in 512 rows.
    """

    band_rows = 512

    def __init__(self, widths: Mapping[str, int], device: torch.device, precision: str) -> None:
        self._widths, self._device = dict(widths), device
        if device.type == "cuda" and torch.cuda.get_device_capability(device) in FAST_FLOAT64:
            precision = "float64"
        self._types = {key: getattr(torch, product_type(width, precision)) for key, width in widths.items()}
        self._sums = {
            key: [
                torch.zeros(last - first, width - first, dtype=torch.float64, device=device)
                for first, last in bands(width, self.band_rows)
            ]
            for key, width in widths.items()
        }

    def add(self, key: str, rows: Tensor) -> None:
        rows = rows.detach().to(self._device, self._types[key])
        exact = rows.dtype == torch.float64
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), true_float32(self._device):
            for part in rows.split(EXACT_ROWS if exact else CHUNK_ROWS):
                for total, (first, last) in zip(self._sums[key], bands(self._widths[key], self.band_rows), strict=True):
                    if exact:
                        total.addmm_(part[:, first:last].T, part[:, first:])
                    else:
                        total += part[:, first:last].T @ part[:, first:]

    def flush(self) -> None:
        finite = [
            torch.stack([part.diagonal().isfinite().all() for part in parts]).all() for parts in self._sums.values()
        ]
        for key, holds in zip(self._sums, torch.stack(finite).tolist() if finite else (), strict=True):
            if not holds:
                raise not_finite(key)

    def triangle(self, key: str) -> NumpyArray:
        return pack_bands([part.cpu().numpy() for part in self._sums[key]], self._widths[key])

    def set(self, key: str, triangle: NumpyArray) -> None:
        parts = unpack_bands(triangle, self._widths[key], self.band_rows)
        self._sums[key] = [torch.from_numpy(part).to(self._device) for part in parts]

    def close(self) -> None:
        pass


def not_finite(key: str) -> MergeError:
    """The error for a Gram with NaN or infinity in it."""
    fix = "a model that gives NaN or infinity here cannot be merged by its Grams; check its weights and its data"
    return MergeError(f"the input of {key} is not finite, or too large to square", fix=fix)


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """float32 products as such on a CUDA device, whatever the user has allowed; as before afterwards."""
    settings = torch.backends.cuda.matmul if device.type == "cuda" else None
    if settings is None:
        yield
        return
    name, wanted = ("fp32_precision", "ieee") if hasattr(settings, "fp32_precision") else ("allow_tf32", False)
    before = getattr(settings, name)
    setattr(settings, name, wanted)
    try:
        yield
    finally:
        setattr(settings, name, before)
