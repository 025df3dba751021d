"""Named tensors as they would be in a file of another floating type: each value rounded when it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vlmerge_cli.checkpoint.dtypes import DTYPES, is_float, num_bytes
from vlmerge_cli.checkpoint.named_tensors import NamedTensors, Seen
from vlmerge_cli.engine.arrays import narrow, numpy_type

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]


class AsType(Seen):
    """All float64, float32, float16 and bfloat16 tensors as ``dtype`` (of the format); others as they are."""

    def __init__(self, source: NamedTensors, dtype: str) -> None:
        super().__init__(source)
        self.tensors = {
            key: replace(tensor, dtype=dtype, start=0, stop=num_bytes(dtype, tensor.num_elements))
            if is_float(tensor.dtype)
            else tensor
            for key, tensor in source.tensors.items()
        }

    def read_into(self, key: str, buffer: Buffer, offset: int = 0) -> None:
        """Fill ``buffer`` with rounded values from byte ``offset`` on; from any thread."""
        held, dtype = self._source.tensors[key].dtype, self.tensors[key].dtype
        if held == dtype:
            self._source.read_into(key, buffer, offset)
            return
        view, size = memoryview(buffer).cast("B"), DTYPES[dtype].bits // 8
        raw = np.empty(num_bytes(held, len(view) // size), np.uint8)
        self._source.read_into(key, raw, num_bytes(held, offset // size))
        view[:] = narrow(raw.view(numpy_type(held)), dtype).data

    def place(self, key: str) -> tuple[int, int]:
        """No file holds the rounded bytes."""
        return -1, 0
