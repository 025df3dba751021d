"""Where made things are kept, and how a folder or file appears there only when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmerge_cli.errors import VlmergeError
from vlmerge_cli.outputs.replacing import descriptor, is_special


def cache_folder() -> Path:
    """``$VLMERGE_CACHE``, else ``vlmerge`` in the user's cache folder."""
    own = os.environ.get("VLMERGE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vlmerge"


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A new folder to fill; it gets its name when the block ends well, and is removed when it does not.

    If someone else finished the same folder meanwhile, theirs stays.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield made
        made.chmod(0o755)
        try:
            made.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it; a pipe or a device is written to. Raises VlmergeError."""
    try:
        _write(path, data)
    except OSError as error:
        raise VlmergeError(f"cannot write {path}: {error.strerror or error}") from None


def _write(path: Path, data: bytes) -> None:
    if is_special(path):
        open_file = descriptor(path)
        with open(path if open_file is None else os.dup(open_file), "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
