"""Files and folders under a temporary name beside their own, and how they get that: in one step, when they are whole.

A temporary is locked while its process lives: an unlocked one was left by a killed run and is removed by the next run
to the same target.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmerge_cli.errors import UsageError


def remove_leftovers(path: Path) -> None:
    """Remove the temporaries that killed runs to this target left behind; those of living runs stay."""
    for leftover in path.parent.glob(f".{_escaped(path.name)}.*.partial"):
        with suppress(OSError), locked(leftover):
            remove(leftover)


@contextmanager
def temporary_for(path: Path, folder: bool) -> Iterator[Path]:
    """A locked, empty temporary beside ``path``; removed on the way out unless it was renamed."""
    temporary = path.parent / f".{path.name}.{os.urandom(4).hex()}.partial"
    try:  # from here on: an interrupt can come as soon as it is there
        if folder:
            temporary.mkdir()
        else:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        with locked(temporary):
            yield temporary
    finally:
        try:
            _remove_undisturbed(temporary)
        except KeyboardInterrupt:  # just before signals were held
            _remove_undisturbed(temporary)
            raise


def _remove_undisturbed(path: Path) -> None:
    """Remove, whatever signals someone impatient sends meanwhile; only the main thread is ever interrupted."""
    if threading.current_thread() is not threading.main_thread():
        remove(path)
        return
    held = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        remove(path)
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file or folder; BlockingIOError when another process has it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):  # a file system without locks
                raise
        yield
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def give_name(temporary: Path, path: Path, force: bool, sync: bool) -> None:
    """Give the temporary its final name; a folder that is in the way changes places with it."""
    if sync and temporary.is_dir():
        for part in temporary.iterdir():
            _sync_path(part)
        _sync_path(temporary)
    if not force:
        _rename_new(temporary, path)
    elif temporary.is_dir() and path.exists():
        _exchange(temporary, path)  # the old folder now has the temporary's name and is removed with it
    else:
        temporary.replace(path)
    if sync:
        _sync_path(path.parent)


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename, unless something has got the name meanwhile. Raises UsageError."""
    if _renameat2(temporary, path, RENAME_NOREPLACE):
        return
    if path.exists():
        raise UsageError(f"{path} exists", fix="another process has just written it: name another -o/--output")
    temporary.rename(path)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change names in one step, or else in three."""
    if _renameat2(one, other, RENAME_EXCHANGE):
        return
    aside = other.with_name(f".{other.name}.{os.urandom(4).hex()}.old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def _renameat2(one: Path, other: Path, flag: int) -> bool:
    """Linux's renameat2; False where this system or file system has it not. Raises OSError and UsageError (exists)."""
    import ctypes

    here = -100  # AT_FDCWD
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise UsageError(f"{other} exists", fix="another process has just written it: name another -o/--output")
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
