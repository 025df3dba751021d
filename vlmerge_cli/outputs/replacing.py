"""May this be replaced? The one answer, for every file and folder that any command writes.

Never an input, the current folder or one above it, nor anything inside a cache of the Hub. A file that is there only
with ``force``. A folder that is there only with ``force`` and where this tool made it, which its ``marks`` tell; and of
what lies in it only what this tool writes is ever removed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlmerge_cli.errors import UsageError

LOCK = ".lock"  # of a folder, which makes it no less empty
STREAMS = {"stdout": 1, "stderr": 2}
DESCRIPTOR = r"/dev/(?P<name>stdout|stderr)|/(?:dev|proc/self)/fd/(?P<number>\d+)"
GRAMS = ".grams.safetensors"  # beside a checkpoint, read unasked by RegMean
FORCE = "replace it with --force, or name another one"


def check_place(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises UsageError for a path that nothing is ever written to: an input, a folder we stand in, a cache."""
    if path.name in ("", ".."):
        raise UsageError(f"{path} cannot be replaced", fix="name the output")
    try:
        whole = path.resolve()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
        raise UsageError(f"{path} cannot be written to: {getattr(error, 'strerror', error)}") from None
    check_no_cache(path)
    for one in inputs:
        try:
            at = one.resolve()
        except (OSError, RuntimeError):  # a loop of links is nobody's input
            continue
        inside = exists and whole.is_file() and at in whole.parents  # a file of a folder that is an input
        if whole in (at, *at.parents) or inside or (exists and one.exists() and path.samefile(one)):
            raise UsageError(f"the output {path} holds an input: {one}", fix="name another -o/--output")
    here = Path.cwd()
    if whole.is_dir() and whole in (here, *here.parents):
        raise UsageError(f"{path} is the current folder or one above it", fix="name a folder of its own")


def check_no_cache(path: Path) -> None:
    """Raises UsageError for what lies in a cache of the Hub: even a new file there makes it a corrupted one."""
    if in_hub_cache(path.resolve()):
        raise UsageError(f"{path} lies in a cache of the Hugging Face Hub", fix="name an output elsewhere")


def check_file(path: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Raises UsageError unless a file may be written here. What is no regular file (a pipe, a device) is written to."""
    check_place(path, inputs)
    if not path.parent.is_dir() and path.parent.exists():
        raise UsageError(f"{path.parent} is no folder")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", fix="name a file")
    if not force and path.exists() and not is_special(path):
        raise UsageError(f"{path} exists", fix=FORCE)


def check_folder(path: Path, force: bool, marks: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """Raises UsageError unless a folder may be filled here: an empty one, or with ``force`` one that is ours.

    ``marks`` are names of files, any one of which tells that.
    """
    check_place(path, inputs)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file", fix="name a folder")
    if not path.is_dir() or not any(one.name != LOCK for one in path.iterdir()):
        return
    if not any((path / mark).is_file() for mark in marks):
        fix = "name another folder; --force replaces only what vlmerge itself has written"
        raise UsageError(f"{path} is not empty and holds no run of vlmerge", fix=fix)
    if not force:
        raise UsageError(f"{path} is not empty", fix="start anew with --force, or name another --out")


def is_special(path: Path) -> bool:
    """Whether a path leads to a pipe, a terminal or another device, which is written to and never replaced.

    So is what a descriptor of this process is open on, be it a file.
    """
    if descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def descriptor(path: Path) -> int | None:
    """The open file that ``/dev/stdout``, ``/dev/fd/63`` and the like stand for."""
    found = re.fullmatch(DESCRIPTOR, str(path))
    return None if found is None else int(found["number"] or STREAMS[found["name"]])


def in_hub_cache(path: Path) -> bool:
    """Whether a path lies in huggingface_hub's cache, below a ``models--ORG--NAME`` with ``snapshots`` or ``blobs``."""
    named = [folder for folder in (path, *path.parents) if folder.name.startswith(("models--", "datasets--"))]
    return any((folder / part).is_dir() for folder in named for part in ("snapshots", "blobs"))


def hub_name(path: Path) -> str:
    """``NAME`` of ``models--ORG--NAME`` in the path of something in a cache."""
    return next(folder.name for folder in (path, *path.parents) if "--" in folder.name).rpartition("--")[2]


def inputs_of(*names: str | Path | None) -> list[Path]:
    """Those names that are paths which exist, and the Grams beside them, for ``inputs``."""
    named = [Path(name) for name in names if name is not None]
    beside = [grams_beside(path) for path in named if path.name]
    return [path for path in (*named, *beside) if os.path.lexists(path)]


def grams_beside(path: Path) -> Path:
    """Where the Grams of the checkpoint at a path lie: ``NAME.grams.safetensors``."""
    return path.with_name(path.name.removesuffix(".safetensors") + GRAMS)
