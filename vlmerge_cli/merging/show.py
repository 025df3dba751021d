"""A plan and a summary, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlmerge_cli import console
from vlmerge_cli.checkpoint.dtypes import DTYPES
from vlmerge_cli.engine.chunks import CHUNK_ELEMENTS, COPY_BYTES
from vlmerge_cli.merging.merge import Prepared, Settings, Summary
from vlmerge_cli.merging.plan import Drop, Merge, sources_of
from vlmerge_cli.methods.method import described

if TYPE_CHECKING:
    from vlmerge_cli.merging.residuals import Residual

# What Python, numpy and the command line take before the first tensor, and what scipy adds; measured.
START_BYTES, SCIPY_BYTES = 45 << 20, 45 << 20


def summary_text(summary: Summary) -> str:
    settings = described(summary.method, summary.settings)
    before, after = summary.num_parameters_before, summary.num_parameters_after
    saved = 1 - after / before if before else 0.0
    return "\n".join(
        (
            f"{summary.output}",
            f"  {summary.num_merged} slots of the {summary.architecture} model merged by {summary.method} ({settings})",
            *_learnt(summary),
            f"  parameters {console.count(before)} -> {console.count(after)} ({saved:.0%} fewer)",
            f"  {console.size(summary.num_bytes_in)} in, {console.size(summary.num_bytes_out)} out"
            f" in {summary.seconds:.2f} s ({summary.gigabytes_per_second:.2f} GB/s)",
        )
    )


def _learnt(summary: Summary) -> list[str]:
    """What the method decided itself, in short."""
    alphas = list(summary.learnt.get("alphas", {}).values())
    if not alphas:
        return []
    by = summary.settings["auto-by"]
    if len(set(alphas)) == 1:
        return [f"  alpha {alphas[0]:.3f} found for the {by}"]
    return [
        f"  alpha found by {by}: {min(alphas):.3f} to {max(alphas):.3f}, {sum(alphas) / len(alphas):.3f} on average"
    ]


def show_residuals(found: list[Residual]) -> None:
    """The report as a table, the slots that lost most first."""
    names = list(dict.fromkeys(name for one in found for name in one.of))
    rows = [
        (one.slot.label, f"{one.share:.2%}", *(f"{one.ratio(n):.4g}" if n in one.of else "" for n in names))
        for one in sorted(found, key=lambda one: -one.ratio("merged"))
    ]
    title = "Squared change of the experts' outputs, relative to the least possible (and that as a share of them)"
    console.show_table(title, ("", "least", *names), rows)


def plan_document(ready: Prepared, settings: Settings, output: str) -> dict[str, Any]:
    """The plan as data: every step, bytes, and the memory it should take."""
    steps = []
    for step in ready.plan.steps:
        entry: dict[str, Any] = {"do": type(step).__name__.lower(), "from": sources_of(step)}
        if isinstance(step, Drop):
            entry["why"] = step.reason
        else:
            spec = ready.plan.specs[step.target]
            entry |= {"to": step.target, "dtype": spec.dtype, "shape": list(spec.shape)}
        if isinstance(step, Merge) and step.base:
            entry["base"] = step.base
        if isinstance(step, Merge) and step.grams:
            entry["grams"] = list(step.grams.values())
        steps.append(entry)
    before, after = ready.num_parameters
    return {
        "input": ready.checkpoint.name,
        "output": output,
        "layout": ready.plan.survey.layout.name,
        "reason": ready.reason,
        "architecture": ready.plan.survey.architecture,
        "method": ready.plan.method.name,
        "settings": ready.plan.method.settings(),
        "num_parameters_before": before,
        "num_parameters_after": after,
        "num_bytes_in": ready.checkpoint.num_bytes,
        "num_bytes_out": ready.plan.num_bytes_out,
        "peak_memory_bytes": peak_memory_bytes(ready, settings.threads),
        "steps": steps,
    }


def plan_text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['input']}: layout {document['layout']}, {document['architecture']} ({document['reason']})",
        f"-> {document['output']}",
        "",
    ]
    counts: dict[str, int] = {}
    for step in document["steps"]:
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
        f"{len(document['steps'])} steps: {total}",
        f"parameters {console.count(document['num_parameters_before'])}"
        f" -> {console.count(document['num_parameters_after'])},"
        f" {console.size(document['num_bytes_in'])} in, {console.size(document['num_bytes_out'])} out,"
        f" about {console.size(document['peak_memory_bytes'])} of memory",
    ]
    return "\n".join(lines)


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
