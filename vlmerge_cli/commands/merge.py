"""``vlmerge merge``: one merged checkpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.checkpoint.writer import Target
from vlmerge_cli.flags.common import (
    CheckpointArgument,
    DeviceOption,
    JsonOption,
    LayoutOption,
    ThreadsOption,
    find_layout,
    parse_bytes,
)
from vlmerge_cli.flags.method import with_method_options
from vlmerge_cli.methods import METHODS


@with_method_options
def command(
    checkpoint: CheckpointArgument,
    method: Annotated[str, typer.Option("-m", "--method", help=f"One of {', '.join(METHODS)}.")] = "interpolation",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .safetensors file, or a folder.", show_default="CKPT.merged"),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="CKPT", help="Weights the experts started from (arithmetic).")
    ] = None,
    grams: Annotated[
        str | None,
        typer.Option(
            "--grams",
            metavar="FILE",
            help="Gram matrices (regmean, --alpha auto, --report).",
            show_default="NAME.grams.safetensors",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="How much each slot changes the experts' outputs, beside the least possible: JSON lines"
            " ('-': a table). Needs Grams.",
        ),
    ] = None,
    layout: LayoutOption = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN", help="Leave slots unmerged, such as 'layers.3.mlp.*'; repeatable."),
    ] = None,
    experts_for: Annotated[
        str | None,
        typer.Option(
            "--experts-for",
            metavar="retrieval|vqa|nlvr2",
            help="In layers with a cross-modal expert, merge only the experts that this task uses.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="float64|float32|float16|bfloat16",
            help="Type of all floating tensors of the output.",
            show_default="as they came",
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Of a folder's files.")] = "5GB",
    allow_non_finite: Annotated[
        bool, typer.Option("--allow-non-finite", help="Merge NaN and infinities instead of stopping.")
    ] = False,
    digest: Annotated[
        str, typer.Option("--digest", metavar="quick|full", help="Of inputs: edges of each tensor, or every byte.")
    ] = "quick",
    no_sync: Annotated[bool, typer.Option("--no-sync", help="Do not wait until the disk has it all.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan, write nothing.")] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Merge the experts of CKPT into one modality-agnostic transformer."""
    from vlmerge_cli.errors import UsageError, nearest
    from vlmerge_cli.merging import merge, show
    from vlmerge_cli.merging.plan import Request
    from vlmerge_cli.methods.method import make

    if digest not in ("quick", "full"):
        raise UsageError(f"--digest {digest}", fix=nearest(digest, ("quick", "full")))
    chosen = make(method, options)
    request = Request(tuple(keep or ()), experts_for, dtype)
    inputs = merge.Inputs(checkpoint, base, grams, find_layout(layout))
    given = {} if threads is None else {"threads": threads}
    settings = merge.Settings(device=device, allow_non_finite=allow_non_finite, full_digest=digest == "full", **given)
    with_grams = report is not None
    if not dry_run and merge.can_collect(inputs, chosen, with_grams):
        from vlmerge_cli.grams.from_data import gather_beside

        gather_beside(checkpoint, inputs.layout, device, quiet=json)
    with merge.prepared(inputs, chosen, request, with_grams) as ready:
        path = output or merge.default_output(ready.checkpoint)
        target = Target(path, force, not no_sync, parse_bytes(max_shard_size, "--max-shard-size"))
        merge.check_output(ready, target)
        if dry_run:
            document = show.plan_document(ready, settings, str(path))
            console.show_json(document) if json else console.show(show.plan_text(document))
            return
        with console.progress("merging", ready.checkpoint.num_bytes, quiet=json) as advance:
            summary = merge.run(ready, target, settings, advance)
        if json:
            speed = {"gigabytes_per_second": round(summary.gigabytes_per_second, 3)}
            console.show_json(asdict(summary) | speed)
        else:
            console.show(show.summary_text(summary))
        if report is not None:
            _report(ready, path, report, settings.threads)


def _report(ready: Any, output: Path, to: Path, threads: int) -> None:
    from vlmerge_cli import ranks, records
    from vlmerge_cli.checkpoint.reader import open_checkpoint
    from vlmerge_cli.merging import show
    from vlmerge_cli.merging.residuals import residuals

    total = ready.checkpoint.num_bytes
    with open_checkpoint(str(output)) as merged, console.progress("comparing", total) as advance:
        found = residuals(ready.plan, ready.checkpoint, ready.grams, merged, threads, advance)
    if to == Path("-"):
        show.show_residuals(found)
        return
    if ranks.is_main():
        to.unlink(missing_ok=True)
        for one in found:
            records.append(to, one.record(output.name))
