"""The plan of a merge as it is shown: every key's step, bytes and the memory it should take, as data and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlmerge_cli import console
from vlmerge_cli.checkpoint.dtypes import DTYPES
from vlmerge_cli.engine.chunks import CHUNK_ELEMENTS, COPY_BYTES
from vlmerge_cli.merging.opening import Prepared
from vlmerge_cli.merging.plan import Drop, Merge, Step, sources_of
from vlmerge_cli.result_base import Result

# What Python, numpy and the command line take before the first tensor, and what scipy adds; measured.
START_BYTES, SCIPY_BYTES = 45 << 20, 45 << 20


@dataclass(frozen=True)
class Preview(Result):
    """The plan as data; ``collects`` is the data that missing Grams would be collected on first."""

    input: str
    output: str
    layout: str
    reason: str
    architecture: str
    method: str
    settings: dict[str, Any]
    num_parameters_before: int
    num_parameters_after: int
    num_bytes_in: int
    num_bytes_out: int
    peak_memory_bytes: int
    steps: list[dict[str, Any]]
    collects: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "collects" or value}


def preview(ready: Prepared, threads: int, output: str) -> Preview:
    before, after = ready.num_parameters
    return Preview(
        input=ready.checkpoint.name,
        output=output,
        layout=ready.plan.survey.layout.name,
        reason=ready.reason,
        architecture=ready.plan.survey.architecture,
        method=ready.plan.method.name,
        settings=ready.plan.method.settings(),
        num_parameters_before=before,
        num_parameters_after=after,
        num_bytes_in=ready.checkpoint.num_bytes,
        num_bytes_out=ready.plan.num_bytes_out,
        peak_memory_bytes=peak_memory_bytes(ready, threads),
        steps=[_step(ready, step) for step in ready.plan.steps],
        collects=list(ready.to_collect),
    )


def _step(ready: Prepared, step: Step) -> dict[str, Any]:
    entry: dict[str, Any] = {"do": type(step).__name__.lower(), "from": sources_of(step)}
    if isinstance(step, Drop):
        return entry | {"why": step.reason}
    spec = ready.plan.specs[step.target]
    entry |= {"to": step.target, "dtype": spec.dtype, "shape": list(spec.shape)}
    if isinstance(step, Merge) and step.base:
        entry["base"] = step.base
    if isinstance(step, Merge) and step.grams:
        entry["grams"] = list(step.grams.values())
    return entry


def preview_text(found: Preview) -> list[str]:
    """The same in words: a line for each step, and the totals."""
    lines = [
        f"{found.input}: layout {found.layout}, {found.architecture} ({found.reason})",
        f"-> {found.output}",
        *([f"Gram matrices are collected first, on {', '.join(found.collects)}"] if found.collects else []),
        "",
    ]
    counts: dict[str, int] = {}
    for step in found.steps:
        counts[step["do"]] = counts.get(step["do"], 0) + 1
        sources, target = " + ".join(step["from"]), step.get("to", "")
        if step["do"] == "drop":
            lines.append(f"drop   {sources}  ({step['why']})")
        elif step["do"] == "copy" and sources == target:
            lines.append(f"copy   {target}")
        else:
            lines.append(f"{step['do']:<6} {sources} -> {target}")
    total = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    lines += [
        "",
        f"{len(found.steps)} steps: {total}",
        f"parameters {console.count(found.num_parameters_before)}"
        f" -> {console.count(found.num_parameters_after)},"
        f" {console.size(found.num_bytes_in)} in, {console.size(found.num_bytes_out)} out,"
        f" about {console.size(found.peak_memory_bytes)} of memory",
    ]
    return lines


def peak_memory_bytes(ready: Prepared, threads: int) -> int:
    """An upper estimate for the CPU: the start, and per thread its buffers or the largest whole group."""
    plan = ready.plan
    largest = 0
    for step in plan.merges:
        spec = plan.specs[step.target]
        if plan.method.elementwise(step.slot) and not plan.method.examines(step.slot):
            continue
        out_features, in_features = spec.shape
        # the Gram as read, scaled, summed and being factored; per expert a weight, and a float64 copy and move
        largest = max(largest, 8 * in_features * (3 * in_features + 4 * out_features * len(step.sources)))
    wide = max((DTYPES[t.dtype].bits // 8 for t in ready.checkpoint.tensors.values()), default=4)
    chunk = CHUNK_ELEMENTS * max(wide, 4) * 8 + 2 * COPY_BYTES
    start = START_BYTES + (SCIPY_BYTES if largest else 0)
    return start + threads * max(chunk, largest)
