"""``vlmerge merge``: one merged checkpoint."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import (
    CheckpointArgument,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LayoutOption,
    ThreadsOption,
    parse_bytes,
    parse_choice,
)
from vlmerge_cli.flags.method import with_method_options
from vlmerge_cli.methods import METHODS, RUNNING

if TYPE_CHECKING:
    from vlmerge_cli.merging.merge import Summary


KNOWN = METHODS | RUNNING


@partial(with_method_options, running=True)
def command(
    checkpoint: CheckpointArgument,
    method: Annotated[
        str, typer.Option("-m", "--method", help=f"One of {', '.join(METHODS | RUNNING)}.")
    ] = "interpolation",
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
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]PATH|shapes|digits",
            help="Image-text pairs (layerwise); repeatable.",
            show_default="what the checkpoint was trained on",
        ),
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="How many pairs (layerwise).", show_default="512")
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
    dtype: DtypeOption = None,
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
    from vlmerge_cli import api
    from vlmerge_cli.outputs.replacing import check_file, inputs_of

    if report is not None and report != Path("-"):
        check_file(report, force, inputs_of(checkpoint, base, grams, output))
    shared: dict[str, Any] = {
        "method": method, "output": output, "base": base, "grams": grams, "layout": layout, "keep": keep or (),
        "experts_for": experts_for, "dtype": dtype, "threads": threads, "force": force, "residuals": report is not None,
        "data": data or (), "num_examples": examples,
    }  # fmt: skip
    full_digest = parse_choice(digest, ("quick", "full"), "--digest") == "full"
    shard_bytes = parse_bytes(max_shard_size, "--max-shard-size")
    if dry_run:
        from vlmerge_cli.merging.preview import preview_text

        found = api.plan(checkpoint, **shared, **options)
        console.show_json(found.to_dict()) if json else console.show_lines(preview_text(found))
        return
    summary = api.merge(
        checkpoint, **shared, device=device, max_shard_bytes=shard_bytes, allow_non_finite=allow_non_finite,
        full_digest=full_digest, sync=not no_sync, verbose=not json, **options,
    )  # fmt: skip
    if json:
        console.show_json(summary.to_dict())
    else:
        from vlmerge_cli.merging.summary_text import summary_text

        console.show(summary_text(summary))
    if report is not None:
        _write_residuals(summary, report, json)


def _write_residuals(summary: "Summary", to: Path, json: bool) -> None:
    """As a table on stdout for ``-`` (in the JSON document they are already), else as JSON lines."""
    from vlmerge_cli import ranks
    from vlmerge_cli.merging.summary_text import show_residuals
    from vlmerge_cli.outputs.whole import write_whole

    if to == Path("-"):
        if not json:
            show_residuals(summary.residuals)
    elif ranks.is_main():
        rows = (one.record(Path(summary.output).name).to_json() + "\n" for one in summary.residuals)
        write_whole(to, "".join(rows).encode())
