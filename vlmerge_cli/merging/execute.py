"""Carry out a plan: read, merge and write in file order, with several threads and bounded memory.

Elementwise slots go through in chunks, the others whole. What a thread computes depends on its chunk alone, so
the bytes of the output do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.dtypes import DTYPES, num_bytes
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.checkpoint.writer import Output
from vlmerge_cli.errors import MergeError
from vlmerge_cli.merging import parallel
from vlmerge_cli.merging.arrays import Arrays, NumpyArrays, count_non_finite, is_finite, make_arrays
from vlmerge_cli.merging.plan import Copy, Drop, Merge, Plan, Same, Step, sources_of
from vlmerge_cli.methods.method import Group

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """Inputs of one execution; ``base`` and ``grams`` are open where the plan refers to them."""

    plan: Plan
    checkpoint: Checkpoint
    base: Checkpoint | None = None
    grams: Checkpoint | None = None
    device: str = "cpu"
    threads: int = 2
    allow_non_finite: bool = False


@dataclass(frozen=True)
class Piece:
    """Elements ``first`` to ``first + count`` of a step; one that moves raw bytes counts bytes."""

    step: Step
    first: int
    count: int


def execute(job: Job, output: Output, advance: Callable[[int], object] = lambda _: None) -> None:
    """Fill ``output``; ``advance`` is told the input bytes done. Raises MergeError for what cannot be merged."""
    if job.device == "cpu":
        _execute_on_cpu(job, output, advance)
    else:
        from vlmerge_cli.merging import gpu

        gpu.execute(job, output, devices.each(job.device), advance)


def _execute_on_cpu(job: Job, output: Output, advance: Callable[[int], object]) -> None:
    whole = any(not job.plan.method.elementwise(step.slot) for step in job.plan.merges)
    with parallel.one_blas_thread() if whole else nullcontext():
        parallel.run(
            lambda: Worker(job, output, NumpyArrays()).do,
            list(pieces_of(job, NumpyArrays.chunk_elements)),
            job.threads,
            lambda piece: input_bytes(job, piece),
            advance,
        )


def settled(job: Job) -> Job:
    """The same job with a method that has seen the slots it wants to see (``--alpha auto``)."""
    method, merges = job.plan.method, job.plan.merges
    steps = [step for step in merges if method.examines(step.slot)]
    found: list[Any] = []
    if steps:
        pieces = [Piece(step, 0, job.plan.specs[step.target].num_elements) for step in steps]
        with parallel.one_blas_thread() if job.device == "cpu" else nullcontext():
            found = parallel.run(
                lambda: Worker(job, None, make_arrays(job.device)).examine,
                pieces,
                job.threads,
                lambda piece: input_bytes(job, piece),
                lambda _: None,
            )
    seen = {step.slot: one for step, one in zip(steps, found, strict=True)}
    return replace(job, plan=replace(job.plan, method=method.settle(seen, [step.slot for step in merges])))


def input_bytes(job: Job, piece: Piece) -> int:
    tensor = job.checkpoint.tensors[sources_of(piece.step)[0]]
    count = len(sources_of(piece.step))
    return count * (piece.count if is_raw(job, piece.step) else num_bytes(tensor.dtype, piece.count))


def is_raw(job: Job, step: Step) -> bool:
    """Whether a step moves bytes as they are; its pieces then count bytes, not elements."""
    if isinstance(step, Same):
        return True
    return isinstance(step, Copy) and job.checkpoint.tensors[step.source].dtype == job.plan.specs[step.target].dtype


class Worker:
    """One thread's share; its arrays reuse their buffers from piece to piece."""

    def __init__(self, job: Job, output: Output | None, arrays: Arrays) -> None:
        self.job, self._output, self.arrays = job, output, arrays
        self._bytes = np.empty((2, COPY_BYTES), np.uint8)

    @property
    def output(self) -> Output:
        assert self._output is not None, "a worker that only examines writes nothing"
        return self._output

    def do(self, piece: Piece) -> None:
        step = piece.step
        if isinstance(step, Merge):
            self._merge(step, piece)
        elif isinstance(step, Same):
            self._same(step, piece)
        elif is_raw(self.job, step):
            assert isinstance(step, Copy)
            self._copy(step, piece)
        else:
            assert isinstance(step, Copy)
            wide = "float64" if self._dtype(step) == "F64" else "float32"
            self._store(step, piece, self._load("copy", step.source, piece, wide))

    def _copy(self, step: Copy, piece: Piece) -> None:
        """From file to file inside the kernel, or else through memory."""
        fd, start = self.job.checkpoint.place(step.source)
        done = self.output.copy(step.target, piece.first, (fd, start + piece.first), piece.count)
        if done < piece.count:
            rest = replace(piece, first=piece.first + done, count=piece.count - done)
            self.output.write(step.target, rest.first, self._read(step.source, rest, 0))

    def _merge(self, step: Merge, piece: Piece) -> None:
        group = self._group(step, piece, whole=not self.job.plan.method.elementwise(step.slot))
        with np.errstate(over="ignore", invalid="ignore"):
            merged = self.job.plan.method(group)
        self._store(step, piece, merged, group)

    def examine(self, piece: Piece) -> Any:
        """What the method wants to know of a slot before the merge."""
        assert isinstance(piece.step, Merge)
        group = self._group(piece.step, piece, whole=True)
        for expert, array in group.experts.items():
            if self.arrays.num_non_finite(array):
                raise self._non_finite(piece.step, {expert: array})
        return self.job.plan.method.examine(group)

    def _group(self, step: Merge, piece: Piece, whole: bool) -> Group:
        job, spec = self.job, self.job.plan.specs[step.target]
        wide = "float64" if "F64" in (self._dtype(step), spec.dtype) else "float32"
        shape = spec.shape if whole else (piece.count,)
        experts = {e: self._load(e, key, piece, wide).reshape(shape) for e, key in step.sources.items()}
        base = None
        if step.base is not None:
            assert job.base is not None
            base = self.arrays.load("base", job.base, step.base, piece.first, piece.count, wide).reshape(shape)
        return Group(step.slot, experts, base, _Grams(job.grams, step.grams, self.arrays), step.tokens)

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

    def __init__(self, source: Checkpoint | None, keys: Mapping[str, str], arrays: Arrays) -> None:
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


def pieces_of(job: Job, chunk_elements: int) -> Iterator[Piece]:
    for step in job.plan.steps:
        if isinstance(step, Drop):
            continue
        tensor = job.checkpoint.tensors[sources_of(step)[0]]
        size, chunk = tensor.num_elements, chunk_elements
        if isinstance(step, Merge) and not job.plan.method.elementwise(step.slot):
            chunk = max(size, 1)
        elif is_raw(job, step):
            size, chunk = tensor.num_bytes, COPY_BYTES
        for first in range(0, size, chunk):
            yield Piece(step, first, min(chunk, size - first))
