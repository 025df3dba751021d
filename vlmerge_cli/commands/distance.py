"""``vlmerge distance``: how far the experts are apart."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import (
    CheckpointArgument,
    DeviceOption,
    ForceOption,
    JsonOption,
    LayoutOption,
    ReportOption,
    ThreadsOption,
    check_report,
    write_report,
)


def command(
    checkpoint: CheckpointArgument,
    pair: Annotated[
        list[str] | None,
        typer.Option("--pair", metavar="v,l|all", help="Experts to compare; repeatable.", show_default="v,l"),
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="layer|module|slot", help="What a row stands for.")] = "layer",
    truncate: Annotated[
        float, typer.Option("--truncate", min=0, max=1, help="Share of entries that TSSD zeroes, the smallest.")
    ] = 0.5,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave out biases and norms.")] = False,
    fail_above: Annotated[
        list[str] | None,
        typer.Option("--fail-above", metavar="tssd=0.02", help="End with exit code 3 above this; repeatable."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the rows as CSV ('-': stdout).")
    ] = None,
    report: ReportOption = None,
    layout: LayoutOption = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="float64|float32|float16|bfloat16",
            help="Round all experts to this type first.",
            show_default="as they are, of different types too",
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """L2, cosine, SSD and TSSD between the experts of CKPT: the smaller, the better they merge."""
    from vlmerge_cli import api
    from vlmerge_cli.distances.gate import parse_limits
    from vlmerge_cli.errors import GateError
    from vlmerge_cli.outputs.replacing import check_file, inputs_of

    limits = parse_limits(fail_above or [])
    inputs = inputs_of(checkpoint)
    if csv is not None and csv != Path("-"):
        check_file(csv, force, inputs)
    check_report(report, "distance")
    found = api.distance(
        checkpoint, by=by, pairs=pair or (), truncate=truncate, weights_only=weights_only, layout=layout, dtype=dtype,
        device=device, threads=threads, verbose=not json,
    )  # fmt: skip
    if json:
        console.show_json(found.to_dict())
    if csv is not None:
        _write_csv(csv, found.to_csv())
    if report is not None:
        write_report(found.to_records(), report, keep=True)
    if not json and csv != Path("-"):
        for distances in found.pairs:
            _show(distances, by)
    failed = found.beyond(limits)
    if failed:
        raise GateError("; ".join(failed))


def _write_csv(path: Path, text: str) -> None:
    from vlmerge_cli.outputs.whole import write_whole

    if path == Path("-"):
        console.show(text.rstrip("\n"))
    else:
        write_whole(path, text.encode())


def _show(distances: Any, by: str) -> None:
    from vlmerge_cli.metrics import METRICS

    rows = [
        (row.at, console.count(row.num_weights), *(f"{value:.4g}" for value in row.values.values()))
        for row in (distances.whole, *distances.rows)
    ]
    title = f"{distances.pair[0]} and {distances.pair[1]}, by {by}, the worst first"
    console.show_table(title, ("", "weights", *(metric.heading for metric in METRICS.values())), rows)
