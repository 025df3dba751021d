"""What a merge did, in words, and its residuals as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmerge_cli import console
from vlmerge_cli.merging.merge import Summary
from vlmerge_cli.methods.method import described

if TYPE_CHECKING:
    from vlmerge_cli.merging.residuals import Residual


def summary_text(summary: Summary) -> str:
    settings = described(summary.method, summary.settings)
    before, after = summary.num_parameters_before, summary.num_parameters_after
    saved = 1 - after / before if before else 0.0
    return "\n".join(
        (
            f"{summary.output}",
            f"  {summary.num_merged} slots of the {summary.architecture} model merged by {summary.method} ({settings})",
            *_learnt(summary),
            *(f"  expert {name} has weight 0: nothing of it is in the output" for name in summary.unused),
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


def show_residuals(found: Sequence[Residual]) -> None:
    """The report as a table, the slots that lost most first."""
    names = list(dict.fromkeys(name for one in found for name in one.of))
    rows = [
        (one.slot.label, f"{one.share:.2%}", *(f"{one.ratio(n):.4g}" if n in one.of else "" for n in names))
        for one in sorted(found, key=lambda one: -one.ratio("merged"))
    ]
    title = "Squared change of the experts' outputs, relative to the least possible (and that as a share of them)"
    console.show_table(title, ("", "least", *names), rows)
