"""A checkpoint as named tensors: one file, a folder or index with shards, or a Hub repository.

Opening reads headers only. Tensors are read with ``preadv`` into buffers that the caller owns, so memory
does not grow with the file (a mapped file would count as resident).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vlmerge_cli import console
from vlmerge_cli.checkpoint import door
from vlmerge_cli.checkpoint import header as headers
from vlmerge_cli.checkpoint.door import PICKLES
from vlmerge_cli.checkpoint.dtypes import is_parameter
from vlmerge_cli.checkpoint.header import Header, Tensor
from vlmerge_cli.checkpoint.small_files import adapter_in, json_object
from vlmerge_cli.errors import CheckpointError, nearest

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

#: What stays the same of a file that nobody touches.
UNCHANGED = ("st_ino", "st_dev", "st_size", "st_mtime_ns")


@dataclass(frozen=True)
class Shard:
    """One open file of a checkpoint."""

    path: Path
    fd: int
    header: Header
    opened: os.stat_result

    def check_unchanged(self) -> None:
        """Raises CheckpointError when the file was written to, cut or replaced since it was opened."""
        held = os.fstat(self.fd)
        try:
            named = self.path.stat()
        except OSError:
            named = None
        for now in (held, named):
            if now is None or any(getattr(now, what) != getattr(self.opened, what) for what in UNCHANGED):
                fix = "run again when nobody writes to it"
                raise CheckpointError(f"{self.path} changed while it was read", fix=fix)


class Checkpoint:
    """Named tensors of one model, opened lazily; a context manager that closes its files.

    ``tensors`` is in file order, shard after shard; ``name`` is what the user typed; ``folder`` is set when
    the checkpoint is a folder (or an index in one).
    """

    def __init__(self, name: str, shards: list[Shard], folder: Path | None) -> None:
        self.name, self.shards, self.folder = name, tuple(shards), folder
        self._shard_of = {key: shard for shard in shards for key in shard.header.tensors}
        self.tensors: dict[str, Tensor] = {
            key: tensor for shard in shards for key, tensor in shard.header.tensors.items()
        }
        self._add_aliases()

    def _add_aliases(self) -> None:
        """Names that safetensors' ``save_model`` leaves out, as their tensor has another: the metadata says which."""
        for shard in self.shards:
            for name, kept in shard.header.metadata.items():
                if kept in shard.header.tensors and name not in self.tensors:
                    self._shard_of[name], self.tensors[name] = shard, shard.header.tensors[kept]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of the first shard's header."""
        return self.shards[0].header.metadata

    @property
    def path(self) -> Path:
        """The file, or the folder that holds the shards."""
        return self.folder or self.shards[0].path

    def config(self) -> dict[str, Any] | None:
        """The model configuration beside the weights (``config.json``) or in the metadata, if there is one."""
        beside = self.path / "config.json" if self.folder else None
        if beside is not None and beside.is_file():
            return json_object(beside)
        return self.about().get("config")

    def about(self) -> dict[str, Any]:
        """What this tool stored in the metadata when it wrote the file; empty for other files."""
        try:
            found = json.loads(self.metadata.get("vlmerge", "{}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def position(self, key: str) -> tuple[int, int]:
        """(shard number, first byte): sorts keys in file order."""
        shard = self._shard_of[key]
        return self.shards.index(shard), self.tensors[key].start

    def place(self, key: str) -> tuple[int, int]:
        """(open file, first byte in it): for what moves bytes without looking at them."""
        return self._shard_of[key].fd, self.tensors[key].start

    def read_ahead(self, num_bytes: int) -> None:
        """Ask the system to fetch the first so many bytes while something else is done."""
        for shard in self.shards if hasattr(os, "posix_fadvise") else ():
            os.posix_fadvise(shard.fd, 0, min(num_bytes, shard.header.num_bytes), os.POSIX_FADV_WILLNEED)
            num_bytes -= shard.header.num_bytes
            if num_bytes <= 0:
                return

    def read_into(self, key: str, buffer: Buffer, offset: int = 0) -> None:
        """Fill ``buffer`` with the bytes of ``key`` from ``offset`` on; safe from several threads.

        Raises CheckpointError when the file ends early.
        """
        shard, tensor = self._shard_of[key], self.tensors[key]
        view = memoryview(buffer).cast("B")
        position = tensor.start + offset
        assert position + len(view) <= tensor.stop, (key, offset, len(view), tensor)
        while view:
            try:
                count = os.preadv(shard.fd, [view], position)
            except OSError as error:
                raise CheckpointError(f"cannot read {key!r}: {error.strerror}", where=str(shard.path)) from None
            if count == 0:
                raise CheckpointError(f"the file ends inside {key!r}", where=str(shard.path))
            view, position = view[count:], position + count

    def read(self, key: str) -> bytearray:
        """All bytes of one tensor."""
        if key not in self.tensors:
            raise CheckpointError(f"no key {key!r}", where=self.name, fix=nearest(key, self.tensors))
        data = bytearray(self.tensors[key].num_bytes)
        self.read_into(key, data)
        return data

    def fingerprint(self, full: bool = False) -> str:
        """sha256 over each shard's header and the first and last 4 KiB of every tensor in file order.

        ``full`` hashes every byte instead (about as long as a merge).
        """
        digest = hashlib.sha256()
        edge, block = 4096, 1 << 20
        for shard in self.shards:
            digest.update(shard.header.raw)
            for tensor in shard.header.tensors.values():
                if full:
                    for start in range(tensor.start, tensor.stop, block):
                        digest.update(os.pread(shard.fd, min(block, tensor.stop - start), start))
                    continue
                digest.update(os.pread(shard.fd, min(edge, tensor.num_bytes), tensor.start))
                start = max(tensor.start, tensor.stop - edge)
                digest.update(os.pread(shard.fd, tensor.stop - start, start))
        return f"sha256{'-full' if full else ''}:{digest.hexdigest()}"

    def check_unchanged(self) -> None:
        """Raises CheckpointError when a file changed since it was opened: what was read is then a mixture."""
        for shard in self.shards:
            shard.check_unchanged()

    def close(self) -> None:
        for shard in self.shards:
            os.close(shard.fd)
        self.shards = ()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Open a ``.safetensors`` file, a folder or index with shards, or ``org/name[@revision]`` from the Hub.

    Raises CheckpointError for what is missing, broken, or a pickle (those go through ``vlmerge convert``).
    """
    path = Path(name)
    if not path.exists():
        from vlmerge_cli.checkpoint import hub

        if hub.is_repository(str(name)):
            return _open_repository(str(name))
        raise door.no_such(str(name))
    if path.is_dir():
        return _open_folder(str(name), path)
    if path.name.endswith(".index.json"):
        return _open_index(str(name), path)
    if path.suffix in PICKLES:
        fix = f"run: vlmerge convert {path} {path.with_suffix('.safetensors')}"
        with suppress(CheckpointError):  # it may be named so and be none
            return _opened(str(name), [path], None)
        raise CheckpointError("a pickle can run code when it is loaded", where=str(name), fix=fix)
    if part := door.part_of(path):
        console.warn(f"{path.name} is {part} of a model, and is taken for all of it")
    return _opened(str(name), [path], None)


def _open_repository(name: str) -> Checkpoint:
    from vlmerge_cli.checkpoint import hub

    folder = hub.download(name)
    try:
        return _open_folder(name, folder)
    except CheckpointError as error:
        if not hub.is_offline():
            raise
        what = f"{door.incomplete(folder)}, and offline: {error.what.removeprefix(f'{door.incomplete(folder)}: ')}"
        raise CheckpointError(what, where=str(folder), fix="fetch the rest without HF_HUB_OFFLINE") from None


def _open_folder(name: str, folder: Path) -> Checkpoint:
    found = door.files_in(folder, name)
    if adapter := adapter_in(folder):
        console.warn(f"{adapter} in {name} belongs to an adapter (LoRA), which is not applied to the weights")
    return _open_index(name, found.index) if found.index else _opened(name, list(found.files), folder)


def _open_index(name: str, index: Path) -> Checkpoint:
    """Shards named by an index; every key of the index is in its shard and no shard holds others."""
    weight_map = json_object(index).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError("the index has no weight_map of file names", where=str(index))
    for file_name in set(weight_map.values()):
        parts = PurePosixPath(file_name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in file_name or not file_name:
            raise CheckpointError(f"the index names a file outside its folder: {file_name!r}", where=str(index))
        if not parts.name:
            raise CheckpointError(f"the index names a folder as a shard: {file_name!r}", where=str(index))
    checkpoint = _opened(name, [index.parent / file for file in sorted(set(weight_map.values()))], index.parent)
    for key, file_name in weight_map.items():
        shard = checkpoint._shard_of.get(key)
        if shard is None or shard.path != index.parent / file_name:
            checkpoint.close()
            raise CheckpointError(f"{file_name} does not hold {key!r}, which the index says", where=str(index))
    unnamed = [key for shard in checkpoint.shards for key in shard.header.tensors if key not in weight_map]
    if unnamed:
        checkpoint.close()
        more = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
        raise CheckpointError(f"the index does not name {unnamed[0]!r}{more}", where=str(index))
    return checkpoint


def _opened(name: str, paths: list[Path], folder: Path | None) -> Checkpoint:
    shards: list[Shard] = []
    seen: dict[str, Path] = {}
    try:
        for path in paths:
            shards.append(_open_shard(path))
            for key in shards[-1].header.tensors:
                if key in seen:
                    raise CheckpointError(f"{key!r} is in two shards: {seen[key].name}, {path.name}", where=name)
                seen[key] = path
        _check_filled(shards, name)
    except BaseException:
        for shard in shards:
            os.close(shard.fd)
        raise
    return Checkpoint(name, shards, folder)


def _check_filled(shards: list[Shard], name: str) -> None:
    """Raises CheckpointError for weights that were taken away before they were saved, as ZeRO-3 leaves them."""
    tensors = {key: t for shard in shards for key, t in shard.header.tensors.items() if is_parameter(t.dtype)}
    emptied = [key for key, tensor in tensors.items() if tensor.shape == (0,)]
    if any(key.endswith("weight") for key in emptied) or len(emptied) * 2 > len(tensors):
        what = f"{len(emptied)} of {len(tensors)} tensors are empty, of shape (0,), such as {emptied[0]!r}"
        fix = "a model split by DeepSpeed's ZeRO-3: gather it first (its folder's zero_to_fp32.py)"
        raise CheckpointError(what, where=name, fix=fix)


def _open_shard(path: Path) -> Shard:
    if not path.is_file():
        raise door.not_a_file(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"cannot open {path}: {error.strerror}") from None
    try:
        opened = os.fstat(fd)
        return Shard(path, fd, headers.read(fd, str(path)), opened)
    except BaseException:
        os.close(fd)
        raise
