"""``vlmerge distance``: how far the experts are apart."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import (
    CheckpointArgument,
    DeviceOption,
    JsonOption,
    LayoutOption,
    ReportOption,
    ThreadsOption,
    find_layout,
    write_report,
)
from vlmerge_cli.records import Record


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
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """L2, cosine, SSD and TSSD between the experts of CKPT: the smaller, the better they merge."""
    from vlmerge_cli import devices

    devices.load_numpy()
    from vlmerge_cli.checkpoint.reader import open_checkpoint
    from vlmerge_cli.distances import measure
    from vlmerge_cli.errors import GateError, PlanError, UsageError, nearest
    from vlmerge_cli.layouts.survey import find

    if by not in measure.GROUPINGS:
        raise UsageError(f"--by {by}", fix=nearest(by, measure.GROUPINGS))
    device = devices.resolve(device, prefer_gpu=False)
    limits = measure.parse_limits(fail_above or [])
    with open_checkpoint(checkpoint) as opened:
        survey, _ = find(opened.tensors, find_layout(layout), checkpoint)
        known = measure.pairs(survey)
        if not known:
            raise PlanError("no layer has two experts to compare", where=f"{checkpoint} ({survey.architecture})")
        asked = pair or [",".join(known[0])]
        chosen = known if "all" in asked else [measure.parse_pair(text, survey) for text in asked]
        workers = threads or min(4, devices.num_cpus())
        found = []
        for one in dict.fromkeys(chosen):
            with console.progress(f"{one[0]} and {one[1]}", opened.num_bytes, quiet=json) as advance:
                found.append(measure.measure(opened, survey, one, by, truncate, weights_only, workers, advance, device))
        about = {"checkpoint": checkpoint, "layout": survey.layout.name, "architecture": survey.architecture}
    if json:
        console.show_json(_document(about, found))
    if csv is not None:
        _write_csv(csv, found)
    if report is not None:
        write_report(_records(about, by, found), report, keep=True)
    if not json and csv != Path("-"):
        for distances in found:
            _show(distances, by)
    failed = [sentence for distances in found for sentence in measure.gate(distances, limits)]
    if failed:
        raise GateError("; ".join(failed))


def _document(about: dict[str, Any], found: list[Any]) -> dict[str, Any]:
    """The first pair's whole at the top level, and the rows of every pair."""

    def whole(distances: Any) -> dict[str, Any]:
        return {"pair": list(distances.pair)} | asdict(distances.whole)

    rows = [{"pair": list(d.pair)} | asdict(row) for d in found for row in d.rows]
    return about | whole(found[0]) | {"pairs": [whole(d) for d in found], "rows": rows}


def _records(about: dict[str, Any], by: str, found: list[Any]) -> list[Record]:
    return [
        Record("distance", {**about, "pair": ",".join(d.pair), "by": by, "where": row.at}, _values(row))
        for d in found
        for row in (d.whole, *d.rows)
    ]


def _values(row: Any) -> dict[str, float]:
    return {name: value for name, value in asdict(row).items() if name != "at"}


def _cells(row: Any) -> list[str]:
    return [row.at, str(row.num_weights), *(repr(getattr(row, name)) for name in ("l2", "cosine", "ssd", "tssd"))]


def _write_csv(path: Path, found: list[Any]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pair", "at", "num_weights", "l2", "cosine", "ssd", "tssd"])
    for distances in found:
        for row in (distances.whole, *distances.rows):
            writer.writerow(["-".join(distances.pair), *_cells(row)])
    if path == Path("-"):
        console.show(text.getvalue().rstrip("\n"))
    else:
        path.write_text(text.getvalue(), encoding="utf-8")


def _show(distances: Any, by: str) -> None:
    rows = [
        (
            row.at,
            console.count(row.num_weights),
            *(f"{getattr(row, n):.4g}" for n in ("l2", "cosine", "ssd", "tssd")),
        )
        for row in (distances.whole, *distances.rows)
    ]
    title = f"{distances.pair[0]} and {distances.pair[1]}, by {by}, the worst first"
    console.show_table(title, ("", "weights", "L2", "cosine", "SSD", "TSSD"), rows)
