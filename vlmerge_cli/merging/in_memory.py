"""Merging tensors that a caller holds, by the same plan and the same engine as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.dtypes import DTYPES
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.named_tensors import InMemory
from vlmerge_cli.errors import UsageError
from vlmerge_cli.layouts.layout import Layout
from vlmerge_cli.layouts.survey import find
from vlmerge_cli.merging.execute import execute, settled
from vlmerge_cli.merging.job import Job
from vlmerge_cli.merging.plan import Request, make_plan
from vlmerge_cli.methods.method import Method

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]


class Held:
    """Output in memory: the bytes of every key, filled from any thread."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self.bytes = {key: bytearray(spec.num_bytes) for key, spec in specs.items()}

    def write(self, key: str, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        self.bytes[key][offset : offset + len(view)] = view

    def copy(self, key: str, offset: int, source: tuple[int, int], num_bytes: int) -> int:
        """Nothing: there is no file to copy from."""
        return 0


def merged(
    tensors: Mapping[str, Any],
    method: Method,
    layout: Layout | None,
    base: Mapping[str, Any] | None,
    grams: Mapping[str, Any] | None,
    request: Request,
    allow_non_finite: bool,
) -> dict[str, Any]:
    """The merged tensors by key, of the kind that came. Raises what planning and merging raise."""
    inputs, restore = _held("the tensors", tensors)
    held_base, held_grams = (
        None if one is None else _held(name, one)[0] for name, one in (("the base", base), ("the Grams", grams))
    )
    survey, _ = find(inputs.tensors, layout, inputs.name)
    if grams is None and any(method.needs_grams(slot) for slot in survey.groups):
        raise UsageError(f"{method.name} needs Gram matrices", fix="give them as grams={key: array, ...}")
    plan = make_plan(inputs, survey, method, request, held_base, held_grams)
    threads = min(4, devices.num_cpus())
    job = settled(Job(plan, inputs, held_base, held_grams, "cpu", threads, allow_non_finite))
    output = Held(plan.specs)
    execute(job, output)
    return {key: restore(output.bytes[key], spec) for key, spec in plan.specs.items()}


def _held(name: str, tensors: Mapping[str, Any]) -> tuple[InMemory, Callable[[bytearray, Spec], Any]]:
    """The bytes of arrays, and how arrays of their kind are made of bytes. Raises UsageError for anything else."""
    found, kinds = {}, set()
    for key, value in tensors.items():
        kinds.add("torch" if hasattr(value, "untyped_storage") else "numpy")
        dtype, shape, data = _torch_bytes(key, value) if "torch" in kinds else _numpy_bytes(key, value)
        found[key] = (dtype, shape, memoryview(data).cast("B") if data.nbytes else memoryview(b""))
    if len(kinds) > 1:
        raise UsageError(f"{name} are numpy and torch mixed", fix="give one kind")
    device = next((value.device for value in tensors.values()), None) if kinds == {"torch"} else None
    return InMemory(name, found), (lambda data, spec: _restored(data, spec, device))


def _numpy_bytes(key: str, value: Any) -> tuple[str, tuple[int, ...], Any]:
    import numpy as np

    names = {kind.numpy: name for name, kind in DTYPES.items() if kind.numpy} | {"bfloat16": "BF16"}
    array = np.ascontiguousarray(value)
    if array.dtype.name not in names:
        raise UsageError(f"{key!r} is {array.dtype}", fix="arrays are of the types that safetensors knows")
    return names[array.dtype.name], np.shape(value), array.reshape(-1).view(np.uint8)


def _torch_bytes(key: str, value: Any) -> tuple[str, tuple[int, ...], Any]:
    import torch

    from vlmerge_cli.checkpoint.legacy import DTYPES as TORCH_DTYPES

    if value.dtype not in TORCH_DTYPES:
        raise UsageError(f"{key!r} is {value.dtype}", fix="tensors are of the types that safetensors knows")
    flat = value.detach().cpu().contiguous().reshape(-1)
    return TORCH_DTYPES[value.dtype], tuple(value.shape), flat.view(torch.uint8).numpy()


def _restored(data: bytearray, spec: Spec, device: Any) -> Any:
    """An array of its own; on ``device`` a tensor, None: numpy."""
    if device is None:
        import ml_dtypes
        import numpy as np

        kind = ml_dtypes.bfloat16 if spec.dtype == "BF16" else DTYPES[spec.dtype].numpy
        return np.frombuffer(data, kind).reshape(spec.shape)
    import torch

    from vlmerge_cli.checkpoint.legacy import DTYPES as TORCH_DTYPES

    kinds = {name: kind for kind, name in TORCH_DTYPES.items()}
    if not data:
        return torch.empty(spec.shape, dtype=kinds[spec.dtype], device=device)
    return torch.frombuffer(data, dtype=kinds[spec.dtype]).reshape(spec.shape).to(device)
