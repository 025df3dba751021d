"""Options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from vlmerge_cli.records import Record

RECORDS = "records.jsonl"

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CKPT",
        help="A .safetensors file, a folder or index with shards, or a Hub id org/name[@revision].",
        show_default=False,
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout", metavar="NAME|FILE.yaml", help="Naming scheme of the keys.", show_default="found from the keys"
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where to compute; auto takes a GPU if it pays."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Write an HTML page, tables and figures, as vlmerge report does."),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="float64|float32|float16|bfloat16",
        help="Type of all floating tensors of the output.",
        show_default="as they came",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="Processors to use.", show_default="all, but at most 4 to merge and to compare"
    ),
]


def parse_choice(text: str, known: Sequence[str], flag: str) -> str:
    """One of a few words. Raises UsageError with the nearest."""
    if text not in known:
        raise UsageError(f"{flag} {text}", fix=nearest(text, known))
    return text


def parse_bytes(text: str, flag: str) -> int:
    """``5GB``, ``500MB``, ``2GiB`` or plain bytes. Raises UsageError."""
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    units |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
    number = text.strip().rstrip("bBkKmMgGtTiI ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        size = int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"{flag} {text}", fix="write a size such as 5GB, 500MB or 2GiB") from None
    if size <= 0:
        raise UsageError(f"{flag} {text}", fix="it must be positive")
    return size


def check_report(out: Path | None, kind: str = "") -> None:
    """Raises UsageError for a report folder that holds something else, or records that are not of ``kind``."""
    if out is None:
        return
    from vlmerge_cli import records
    from vlmerge_cli.reports import build

    build.check(out)
    others = {record.kind for record in records.read(out / RECORDS)} - {kind} if kind else set()
    if others:
        what = f"{out / RECORDS} holds other records: {', '.join(sorted(others))}"
        raise UsageError(what, fix="name another folder for --report")


def write_report(found: Sequence["Record"], out: Path, keep: bool = False) -> None:
    """The report of ``found`` in ``out``; with ``keep`` also the records, so that it can be made again."""
    from vlmerge_cli.outputs.whole import write_whole
    from vlmerge_cli.reports import build

    if keep:
        write_whole(out / RECORDS, "".join(record.to_json() + "\n" for record in found).encode())
    written = build.write(found, out)
    if not written.has_figures:
        console.warn(build.NO_FIGURES)
    console.say(f"report: {written.page}")
