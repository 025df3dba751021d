"""A folder is worked in by one process at a time; the second is told who the first is."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmerge_cli import ranks
from vlmerge_cli.errors import UsageError

NAME = ".lock"
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # what a file system without locks says


@contextmanager
def alone(folder: Path, shared: bool = False) -> Iterator[None]:
    """While the block runs, no other process enters the same folder (made if need be). Every rank comes here.

    The lock is the kernel's: it goes with its process, however that ends, so a lock file that was left means nothing.
    With ``shared``, processes of our own may hold it too (``share``), and the folder stays taken while one of them
    lives. Raises UsageError on every rank, with the process that is at work there.
    """
    problem: UsageError | None = None
    held: Any = None
    if ranks.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = _taken(folder)
        except UsageError as error:
            problem = error
    problem = ranks.gather_objects(problem)[0]
    if problem is not None:
        raise problem
    try:
        if held is not None and shared:
            fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        if held is not None:
            (folder / NAME).unlink(missing_ok=True)
            held.close()


@contextmanager
def share(folder: Path) -> Iterator[None]:
    """Hold a folder's lock beside the process that has it ``shared``."""
    with open(folder / NAME, "a", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield


def _taken(folder: Path) -> Any:
    """The open, locked file. Raises UsageError with what the one who has it wrote there."""
    path = folder / NAME
    while True:
        held = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held while the lock is)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                held.seek(0)
                who = held.read().strip() or "another process"
                held.close()
                fix = "wait for it, stop it, or name another --out"
                raise UsageError(f"{who} works in {folder}", fix=fix) from None
        if path.exists() and os.path.samestat(os.fstat(held.fileno()), path.stat()):
            held.truncate(0)
            held.write(f"process {os.getpid()} on {platform.node()}")
            held.flush()
            return held
        held.close()  # its last owner removed it between the two calls
