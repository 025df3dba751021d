"""Named tensors wherever they are: what a merge reads and fills, be it a file, memory, or one read for many merges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlmerge_cli.checkpoint.header import Tensor

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]


class NamedTensors(Protocol):
    """What planning and carrying out a merge ask of their inputs; an open Checkpoint is one."""

    name: str

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    def read_into(self, key: str, buffer: Buffer, offset: int = 0) -> None:
        """Fill ``buffer`` with the bytes of ``key`` from ``offset`` on; from any thread."""

    def place(self, key: str) -> tuple[int, int]:
        """(open file, first byte in it); (-1, 0) where there is no file."""

    def about(self) -> dict[str, Any]: ...

    @property
    def path(self) -> Path: ...

    @property
    def folder(self) -> Path | None: ...


class Sink(Protocol):
    """Where merged tensors go; an Output is one. From any thread, in any order."""

    def write(self, key: str, offset: int, data: Buffer) -> None:
        """Put ``data`` at ``offset`` of ``key``."""

    def copy(self, key: str, offset: int, source: tuple[int, int], num_bytes: int) -> int:
        """Take bytes of an open file from a position on; how many were taken, the rest is written."""


class InMemory:
    """Tensors whose bytes a caller holds: key -> (type of the format, shape, bytes)."""

    folder = None

    def __init__(self, name: str, held: Mapping[str, tuple[str, tuple[int, ...], memoryview]]) -> None:
        self.name, self._held = name, held
        self.tensors: Mapping[str, Tensor] = {
            key: Tensor(dtype, shape, 0, len(view)) for key, (dtype, shape, view) in held.items()
        }

    @property
    def path(self) -> Path:
        return Path(self.name)

    def read_into(self, key: str, buffer: Buffer, offset: int = 0) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = self._held[key][2][offset : offset + len(view)]

    def place(self, key: str) -> tuple[int, int]:
        return -1, 0

    def about(self) -> dict[str, Any]:
        return {}


class Seen:
    """Other named tensors, seen through something; here as they are."""

    def __init__(self, source: NamedTensors) -> None:
        self.name, self.tensors, self._source = source.name, source.tensors, source

    @property
    def path(self) -> Path:
        return self._source.path

    @property
    def folder(self) -> Path | None:
        return self._source.folder

    def read_into(self, key: str, buffer: Buffer, offset: int = 0) -> None:
        self._source.read_into(key, buffer, offset)

    def place(self, key: str) -> tuple[int, int]:
        return self._source.place(key)

    def about(self) -> dict[str, Any]:
        return self._source.about()


class Remembered(Seen):
    """Gives what was read once again without reading, until told to ``forget``. One thread's."""

    def __init__(self, source: NamedTensors) -> None:
        super().__init__(source)
        self._held: dict[tuple[str, int, int], bytes] = {}

    def read_into(self, key: str, buffer: Buffer, offset: int = 0) -> None:
        view = memoryview(buffer).cast("B")
        at = (key, offset, len(view))
        if at in self._held:
            view[:] = self._held[at]
        else:
            self._source.read_into(key, buffer, offset)
            self._held[at] = bytes(view)

    def forget(self) -> None:
        self._held.clear()
