"""Safetensors output that is whole or absent.

The header is known before the first tensor is read, so the file is created at full size under a temporary
name in the target's folder, filled at known offsets in any order, checked byte by byte count, synced and
renamed.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vlmerge_cli import ranks
from vlmerge_cli.checkpoint import header as headers
from vlmerge_cli.checkpoint.door import INDEX_NAME, SINGLE_NAME
from vlmerge_cli.checkpoint.header import Header, Spec
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writebehind import WriteBehind, is_large
from vlmerge_cli.errors import CheckpointError
from vlmerge_cli.outputs.temporary import give_name, remove_leftovers, temporary_for

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]


class Output:
    """Files being written; every tensor must get each of its bytes once, from whichever rank.

    ``new`` files are created at full size; otherwise another rank has done that. With ``sync``, or where they are
    large, they are on their way to the disk while they are being filled.
    """

    def __init__(self, folder: Path, files: Mapping[str, Header], sync: bool, new: bool = True) -> None:
        large = is_large(sum(header.num_bytes for header in files.values()))
        self._behind = WriteBehind(give_back=large) if sync or large else None
        self._fds: list[int] = []
        self._place: dict[str, tuple[int, int, int]] = {}  # key -> fd, start, stop
        self._lock = threading.Lock()
        try:
            for name, header in files.items():
                self._open(folder / name, header, new)
        except BaseException:
            self.close()
            raise
        self._missing = {key: stop - start for key, (_, start, stop) in self._place.items()}

    def write(self, key: str, offset: int, data: Buffer) -> None:
        """Put ``data`` at ``offset`` of ``key``; from any thread, in any order."""
        view = memoryview(data).cast("B")
        fd, position = self._at(key, offset, len(view))
        size = len(view)
        while view:
            count = os.pwrite(fd, view, position)
            view, position = view[count:], position + count
        self._wrote(key, fd, position - size, position)

    def copy(self, key: str, offset: int, source: tuple[int, int], num_bytes: int) -> int:
        """Let the kernel put bytes of another file (open, from a position on) at ``offset`` of ``key``.

        Returns how many it moved: 0 where it cannot do that between these files, which ``write`` then has to.
        """
        fd, position = self._at(key, offset, num_bytes)
        done = 0
        with suppress(OSError, AttributeError):  # not on this system; if it is the disk, ``write`` will say so
            while done < num_bytes:
                count = os.copy_file_range(source[0], fd, num_bytes - done, source[1] + done, position + done)
                if count == 0:
                    break
                done += count
        self._wrote(key, fd, position, position + done)
        return done

    def _at(self, key: str, offset: int, num_bytes: int) -> tuple[int, int]:
        """The file and the position in it for some bytes of ``key``."""
        fd, start, stop = self._place[key]
        assert start + offset + num_bytes <= stop, (key, offset, num_bytes, stop - start)
        return fd, start + offset

    def _wrote(self, key: str, fd: int, start: int, stop: int) -> None:
        with self._lock:
            self._missing[key] -= stop - start
        if self._behind is not None and stop > start:
            self._behind.wrote(fd, start, stop)

    def join(self) -> None:
        """Wait for all ranks and take what they wrote into account."""
        for missing in ranks.gather_objects(None if ranks.is_main() else self._missing):
            for key, count in (missing or {}).items():
                _, start, stop = self._place[key]
                self._missing[key] -= stop - start - count

    def finish(self, sync: bool) -> None:
        """Every byte must have been written; with ``sync`` wait until the disk has them."""
        wrong = {key: count for key, count in self._missing.items() if count}
        assert not wrong, f"bytes written do not match the header: {dict(list(wrong.items())[:3])}"
        if sync:
            for fd in self._fds:
                os.fsync(fd)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _open(self, path: Path, header: Header, new: bool) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if new else 0), 0o666)
        self._fds.append(fd)
        if new:
            _reserve(fd, header.num_bytes)
            os.pwrite(fd, header.raw, 0)
        for key, tensor in header.tensors.items():
            self._place[key] = (fd, tensor.start, tensor.stop)


@contextmanager
def create(
    target: Target,
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str],
    extras: Mapping[str, bytes] | None = None,
    shared: bool = False,
) -> Iterator[Output]:
    """Write ``specs`` to ``target``: the block fills the Output; leaving it without an error commits.

    A folder is written beside the old one and swapped for it as a whole, with its shards, their index and
    ``extras``. Any error, a full disk or Ctrl-C leaves what was there before. ``shared``: all ranks come here and
    fill a part each; rank 0 makes the files and commits when all are done.
    Raises UsageError (Target.check) and CheckpointError for what the file system refuses.
    """
    files, index = _files(target, specs, metadata)
    together = shared and ranks.world_size() > 1
    if together and not ranks.is_main():
        with _joined(files, target.sync) as output:
            yield output
        return
    target.check()
    remove_leftovers(target.path)
    try:
        with temporary_for(target.path, folder=not target.is_file) as temporary:
            folder = temporary
            if target.is_file:
                folder, files = temporary.parent, {temporary.name: files[target.path.name]}
            output = Output(folder, files, target.sync)
            if not target.is_file:
                for name, content in {**(extras or {}), **index}.items():
                    (temporary / name).write_bytes(content)
            if together:
                ranks.gather_objects((str(folder), list(files)))
            try:
                yield output
                if together:
                    output.join()
                output.finish(target.sync)
            finally:
                output.close()
            give_name(temporary, target.path, target.force, target.sync)
    except OSError as error:
        raise _refused(error, target.path) from error
    if together:
        ranks.barrier()


@contextmanager
def _joined(files: Mapping[str, Header], sync: bool) -> Iterator[Output]:
    """The files that rank 0 has made, opened by another rank."""
    folder, names = ranks.gather_objects(None)[0]
    output = Output(Path(folder), dict(zip(names, files.values(), strict=True)), sync, new=False)
    try:
        yield output
        output.join()
    finally:
        output.close()
    ranks.barrier()


def _files(
    target: Target, specs: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[dict[str, Header], dict[str, bytes]]:
    """Headers by file name, and the index of a folder of several shards."""
    if target.is_file:
        return {target.path.name: headers.build(specs, metadata)}, {}
    return _sharded(specs, metadata, target.max_shard_bytes)


def _sharded(
    specs: Mapping[str, Spec], metadata: Mapping[str, str], max_shard_bytes: int
) -> tuple[dict[str, Header], dict[str, bytes]]:
    """Headers by file name, and the index file when there is more than one shard."""
    shards: list[dict[str, Spec]] = [{}]
    filled = 0
    for key in sorted(specs):
        size = specs[key].num_bytes
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][key] = specs[key]
        filled += size
    if len(shards) == 1:
        return {SINGLE_NAME: headers.build(shards[0], metadata)}, {}
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    total = sum(spec.num_bytes for spec in specs.values())
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    files = {name: headers.build(shard, metadata) for name, shard in zip(names, shards, strict=True)}
    return files, {INDEX_NAME: (json.dumps(index, indent=2) + "\n").encode()}


def _reserve(fd: int, num_bytes: int) -> None:
    """Give the file its size at once: twice as fast to fill, and a full disk shows before any work."""
    try:
        os.posix_fallocate(fd, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(fd, num_bytes)


def _refused(error: OSError, path: Path) -> CheckpointError:
    fix = {
        errno.ENOSPC: "free some space, or write elsewhere with -o/--output",
        errno.EDQUOT: "free some space, or write elsewhere with -o/--output",
        errno.EFBIG: "this system limits the size of a file: use a folder and --max-shard-size",
        errno.EACCES: "choose a folder you may write to with -o/--output",
        errno.EROFS: "choose a folder you may write to with -o/--output",
    }.get(error.errno or 0, "")
    return CheckpointError(f"cannot write {path}: {error.strerror or error}", fix=fix)
