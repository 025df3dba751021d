"""What a collection of Grams has so far, on disk: so that a stopped one goes on where it was, to the same bytes.

A folder beside the output, one set of files a rank. ``now`` is the group of layers in the making: its sums, tokens
and the number of batches in them; ``group-N`` are groups that are complete. Each file is replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import create
from vlmerge_cli.errors import CheckpointError, UsageError
from vlmerge_cli.methods.linalg import packed_size

NumpyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Progress:
    """Group ``group`` has ``num_batches`` of this rank's batches in it; ``counts`` are its tokens so far."""

    group: int = 0
    num_batches: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


class GramState:
    """One rank's files. ``job`` is everything that the sums depend on, as JSON values."""

    def __init__(self, folder: Path, job: Mapping[str, Any], rank: int) -> None:
        self.folder, self.job, self.rank = folder, json.loads(json.dumps(job)), rank

    @property
    def now(self) -> Path:
        return self.folder / f"rank-{self.rank}.now.safetensors"

    def group(self, number: int) -> Path:
        return self.folder / f"rank-{self.rank}.group-{number}.safetensors"

    def found(self) -> bool:
        return self.now.exists()

    def save(
        self, progress: Progress, widths: Mapping[str, int], triangle: Callable[[str], NumpyArray], path: Path
    ) -> None:
        """Replace ``path`` (``now`` or a group's file)."""
        self.folder.mkdir(exist_ok=True)
        about = {"job": self.job, "group": progress.group, "num_batches": progress.num_batches}
        about["tokens"] = dict(progress.counts)
        specs = {key: Spec("F64", (packed_size(width),)) for key, width in widths.items()}
        with create(Target(path, force=True), specs, {"vlmerge": json.dumps(about)}) as output:
            for key in specs:
                output.write(key, 0, triangle(key))

    def load(self) -> tuple[Progress, Callable[[], Iterator[tuple[str, NumpyArray]]]]:
        """Where it was, and a function that gives its sums. Raises UsageError when it was another job's."""
        with open_checkpoint(str(self.now)) as file:
            about = file.about()
        self._check(about)
        progress = Progress(about["group"], about["num_batches"], about["tokens"])
        missing = [number for number in range(progress.group) if not self.group(number).exists()]
        if missing:
            raise CheckpointError(f"{self.group(missing[0])} is missing", fix="start again: --force")
        return progress, lambda: self.sums(self.now)

    def sums(self, path: Path) -> Iterator[tuple[str, NumpyArray]]:
        with open_checkpoint(str(path)) as file:
            for key in file.tensors:
                yield key, np.frombuffer(file.read(key), np.float64)

    @contextmanager
    def finished(self, groups: int) -> Iterator[tuple[Callable[[str], NumpyArray], dict[str, int]]]:
        """The sums of all complete groups, read when they are asked for, and the tokens in them."""
        files = [open_checkpoint(str(self.group(number))) for number in range(groups)]
        try:
            place = {key: file for file in files for key in file.tensors}
            counts = {key: count for file in files for key, count in file.about()["tokens"].items()}
            yield lambda key: np.frombuffer(place[key].read(key), np.float64), counts
        finally:
            for file in files:
                file.close()

    def remove(self) -> None:
        """This rank's files, and the folder with the last of them."""
        for path in self.folder.glob(f"rank-{self.rank}.*"):
            path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def _check(self, about: Mapping[str, Any]) -> None:
        before = about.get("job", {})
        changed = [name for name in self.job if before.get(name) != self.job[name]]
        if changed:
            name = changed[0]
            what = f"the interrupted collection had another {name.replace('_', ' ')}"
            if len(str(before.get(name))) + len(str(self.job[name])) < 100:
                what += f": {before.get(name)}, not {self.job[name]}"
            raise UsageError(what, where=str(self.folder), fix="resume as it was started, or start again: --force")
