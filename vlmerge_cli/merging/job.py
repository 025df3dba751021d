"""What a merge is to carry out, and the pieces it is cut into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlmerge_cli.checkpoint.dtypes import num_bytes
from vlmerge_cli.checkpoint.named_tensors import NamedTensors, Sink
from vlmerge_cli.engine.chunks import COPY_BYTES
from vlmerge_cli.merging.plan import Copy, Drop, Merge, Plan, Same, Step, sources_of


@dataclass(frozen=True)
class Job:
    """Inputs of one execution; ``base`` and ``grams`` are open where the plan refers to them."""

    plan: Plan
    checkpoint: NamedTensors
    base: NamedTensors | None = None
    grams: NamedTensors | None = None
    device: str = "cpu"
    threads: int = 2
    allow_non_finite: bool = False


@dataclass(frozen=True)
class Piece:
    """Elements ``first`` to ``first + count`` of a step; one that moves raw bytes counts bytes."""

    step: Step
    first: int
    count: int


def copy_piece(job: Job, output: Sink, piece: Piece) -> None:
    """Bytes from file to file, inside the kernel or else through memory."""
    assert isinstance(piece.step, Copy)
    fd, start = job.checkpoint.place(piece.step.source)
    done = output.copy(piece.step.target, piece.first, (fd, start + piece.first), piece.count)
    if done < piece.count:
        data = bytearray(piece.count - done)
        job.checkpoint.read_into(piece.step.source, data, piece.first + done)
        output.write(piece.step.target, piece.first + done, data)


def input_bytes(job: Job, piece: Piece) -> int:
    """Bytes that a piece reads."""
    tensor = job.checkpoint.tensors[sources_of(piece.step)[0]]
    count = len(sources_of(piece.step))
    return count * (piece.count if is_raw(job, piece.step) else num_bytes(tensor.dtype, piece.count))


def is_raw(job: Job, step: Step) -> bool:
    """Whether a step moves bytes as they are; its pieces then count bytes, not elements."""
    return isinstance(step, Same) or is_copy(job, step)


def is_copy(job: Job, step: Step) -> bool:
    """Whether a step moves one tensor without changing its type."""
    return isinstance(step, Copy) and job.checkpoint.tensors[step.source].dtype == job.plan.specs[step.target].dtype


def pieces_of(job: Job, chunk_elements: int) -> Iterator[Piece]:
    """A plan's steps in file order, cut into pieces of at most ``chunk_elements`` where the method allows it."""
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
