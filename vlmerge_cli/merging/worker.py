"""One thread's share of a merge: groups in, each merged, checked, rounded once and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vlmerge_cli.checkpoint.dtypes import DTYPES, num_bytes
from vlmerge_cli.checkpoint.named_tensors import NamedTensors, Sink
from vlmerge_cli.engine.arrays import Arrays, count_non_finite, is_finite
from vlmerge_cli.engine.chunks import COPY_BYTES
from vlmerge_cli.errors import MergeError
from vlmerge_cli.merging.job import Job, Piece, copy_piece, is_raw
from vlmerge_cli.merging.plan import Copy, Merge, Same, Step, sources_of
from vlmerge_cli.methods.method import Group


class Worker:
    """One thread's share; its arrays reuse their buffers from piece to piece."""

    def __init__(self, job: Job, output: Sink | None, arrays: Arrays) -> None:
        self.job, self._output, self.arrays = job, output, arrays
        self._bytes = np.empty((2, COPY_BYTES), np.uint8)

    @property
    def output(self) -> Sink:
        assert self._output is not None, "a worker that only examines writes nothing"
        return self._output

    def do(self, piece: Piece) -> None:
        step = piece.step
        if isinstance(step, Merge):
            self._merge(step, piece)
        elif isinstance(step, Same):
            self._same(step, piece)
        elif is_raw(self.job, step):
            copy_piece(self.job, self.output, piece)
        else:
            assert isinstance(step, Copy)
            wide = "float64" if self._dtype(step) == "F64" else "float32"
            self._store(step, piece, self._load("copy", step.source, piece, wide))

    def _merge(self, step: Merge, piece: Piece) -> None:
        with self.arrays.computing(), np.errstate(over="ignore", invalid="ignore"):
            group = self._group(step, piece, whole=not self.job.plan.method.elementwise(step.slot))
            merged = self.job.plan.method(group)
            self._store(step, piece, merged, group)

    def examine(self, piece: Piece) -> Any:
        """What the method wants to know of a slot before the merge."""
        assert isinstance(piece.step, Merge)
        with self.arrays.computing():
            group = self._group(piece.step, piece, whole=True)
            for expert, array in group.experts.items():
                if self.arrays.num_non_finite(array):
                    raise self._non_finite(piece.step, {expert: array})
            return self.job.plan.method.examine(group)

    def _group(self, step: Merge, piece: Piece, whole: bool) -> Group:
        job, spec = self.job, self.job.plan.specs[step.target]
        types = {spec.dtype, *(job.checkpoint.tensors[key].dtype for key in step.sources.values())}
        wide = "float64" if "F64" in types else "float32"
        shape = spec.shape if whole else (piece.count,)
        experts = {e: self._load(e, key, piece, wide).reshape(shape) for e, key in step.sources.items()}
        base = None
        if step.base is not None:
            assert job.base is not None
            base = self.arrays.load("base", job.base, step.base, piece.first, piece.count, wide).reshape(shape)
        top = job.plan.survey.layout.top
        return Group(step.slot, experts, base, _Grams(job.grams, step.grams, self.arrays), step.tokens, top)

    def _same(self, step: Same, piece: Piece) -> None:
        first, *others = step.sources
        data = self._read(step.sources[first], piece, 0)
        for expert in others:
            if not np.array_equal(data, self._read(step.sources[expert], piece, 1)):
                at = f"layer {step.slot.layer} {step.slot.name}"
                what = f"{at}: {self._dtype(step)} tensors differ between {first} and {expert}"
                fix = f"whole numbers are never averaged; leave it out with --keep '{step.slot.label}'"
                raise MergeError(what, where=self.job.checkpoint.name, fix=fix)
        self.output.write(step.target, piece.first, data)

    def _read(self, key: str, piece: Piece, place: int) -> Any:
        """A piece's raw bytes; valid until the next ones in the same place."""
        data = self._bytes[place, : piece.count]
        self.job.checkpoint.read_into(key, data, piece.first)
        return data

    def _load(self, name: str, key: str, piece: Piece, wide: str) -> Any:
        return self.arrays.load(name, self.job.checkpoint, key, piece.first, piece.count, wide)

    def _store(self, step: Merge | Copy, piece: Piece, array: Any, group: Group | None = None) -> None:
        """Round and write; ``group`` is what the array was merged from."""
        dtype = self.job.plan.specs[step.target].dtype
        data = self.arrays.store(array, dtype)
        if not self.job.allow_non_finite and not is_finite(data, dtype):
            self._check(step, array, count_non_finite(data, dtype), group)
        self.output.write(step.target, num_bytes(dtype, piece.first), data)

    def _check(self, step: Merge | Copy, array: Any, num_stored: int, group: Group | None) -> None:
        """A merge gives no NaN or infinity, and a finite value is so in the file's type too, which may be narrower."""
        num_before = self.arrays.num_non_finite(array)
        if isinstance(step, Merge) and group is not None and num_before:
            raise self._non_finite(step, group.experts, group.base)
        if num_stored > num_before:
            name = DTYPES[self.job.plan.specs[step.target].dtype].numpy
            what = f"{step.target} has values that {name} cannot hold"
            raise MergeError(what, where=self.job.checkpoint.name, fix="choose another --dtype")

    def _non_finite(self, step: Merge, experts: Mapping[str, Any], base: Any = None) -> MergeError:
        bad = [step.sources[expert] for expert, array in experts.items() if self.arrays.num_non_finite(array)]
        if base is not None and self.arrays.num_non_finite(base):
            bad.append(f"{step.base} of the base")
        what = f"NaN or infinity in {', '.join(bad)}" if bad else f"merging {step.target} overflows"
        fix = f"merge all the same with --allow-non-finite, or leave it out with --keep '{step.slot.label}'"
        return MergeError(what, where=self.job.checkpoint.name, fix=fix)

    def _dtype(self, step: Step) -> str:
        return self.job.checkpoint.tensors[sources_of(step)[0]].dtype


class _Grams(Mapping[str, Any]):
    """Grams of one slot, each read when it is asked for, so that one at a time is in memory."""

    def __init__(self, source: NamedTensors | None, keys: Mapping[str, str], arrays: Arrays) -> None:
        self._source, self._keys, self._arrays = source, keys, arrays

    def __getitem__(self, expert: str) -> Any:
        assert self._source is not None
        key = self._keys[expert]
        tensor = self._source.tensors[key]
        flat = self._arrays.load("gram", self._source, key, 0, tensor.num_elements, "float64")
        if self._arrays.num_non_finite(flat):
            raise MergeError(f"NaN or infinity in the Gram {key}", where=self._source.name, fix="collect it again")
        return flat.reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
