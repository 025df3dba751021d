"""Where a checkpoint is written to, and whether what is there may be replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlmerge_cli.checkpoint import header as headers
from vlmerge_cli.errors import CheckpointError, UsageError
from vlmerge_cli.outputs.replacing import check_place, is_special

#: Endings of what a folder of weights holds.
BESIDE_WEIGHTS = {".safetensors", ".json", ".txt", ".md", ".model", ".jinja", ".yaml", ".jsonl"}


@dataclass(frozen=True)
class Target:
    """Where output goes: a ``.safetensors`` file, or any other path as a folder.

    ``extras`` are small files (name -> text) that a folder gets beside its weights.
    """

    path: Path
    force: bool = False
    sync: bool = True
    max_shard_bytes: int = 5_000_000_000

    @property
    def is_file(self) -> bool:
        return self.path.suffix == ".safetensors"

    def check(self, inputs: Iterable[Path] = ()) -> None:
        """Raises UsageError when the target exists and may not be replaced, or its folder is not there.

        ``force`` replaces a file, or a folder that this tool wrote and that holds nothing else; never an input.
        """
        if not self.force and self.path.exists() and self.path.is_dir() != self.is_file:
            raise UsageError(f"{self.path} exists", fix="replace it with --force, or name another -o/--output")
        check_place(self.path, inputs)
        if not self.path.parent.is_dir():
            raise UsageError(f"no such folder: {self.path.parent}")
        if is_special(self.path):
            raise UsageError(f"{self.path} is no file that can be replaced", fix="name a file or a folder")
        if self.path.exists() or self.path.is_symlink():
            if self.path.is_dir() == self.is_file:
                kind = "folder" if self.path.is_dir() else "file"
                fix = "a name in .safetensors is a file, any other a folder"
                raise UsageError(f"{self.path} is a {kind}", fix=fix)
            if not self.force:
                raise UsageError(f"{self.path} is a link to nothing", fix="remove it, or name another -o/--output")
            if self.path.is_dir() and (foreign := _foreign(self.path)):
                fix = "--force replaces a folder whole: name another -o/--output"
                raise UsageError(f"{self.path} is a folder that holds {foreign}", fix=fix)


def _foreign(folder: Path) -> str:
    """What keeps a folder from being replaced, in words; empty for one with nothing but a checkpoint of ours."""
    names = sorted(folder.iterdir())
    weights = [path for path in names if path.suffix == ".safetensors"]
    if names and not weights:
        return "no checkpoint"
    strange = [path.name for path in names if path.is_dir() or path.suffix not in BESIDE_WEIGHTS]
    if strange:
        return f"{strange[0]}, which is none of its files"
    return next((f"{path.name}, which vlmerge has not written" for path in weights if not _is_ours(path)), "")


def _is_ours(path: Path) -> bool:
    """Whether a file's metadata say that this tool wrote it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return "vlmerge" in headers.read(fd, str(path)).metadata
    except CheckpointError:
        return False
    finally:
        os.close(fd)
