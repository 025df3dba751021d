"""``vlmerge convert``: PyTorch files to safetensors, safely."""

from pathlib import Path
from typing import Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import JsonOption


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A .ckpt, .pt, .pth or .bin file, an index of shards, or their folder.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .safetensors file, or a folder.", show_default=False)
    ],
    no_sync: Annotated[bool, typer.Option("--no-sync", help="Do not wait until the disk has it all.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the tensors of IN to OUT as safetensors; a file that needs code to load is refused."""
    from vlmerge_cli import api

    summary = api.convert(source, target, force=force, sync=not no_sync)
    if json:
        console.show_json(summary.to_dict())
        return
    console.show(f"{summary.target}: {summary.num_tensors} tensors, {console.size(summary.num_bytes)}")
    if summary.unwrapped:
        console.show(f"  unwrapped   {' '.join(summary.unwrapped)}")
    for names in summary.tied:
        console.show(f"  was shared  {', '.join(names)}")
    for name, kind in summary.left_out.items():
        console.show(f"  left out    {name} ({kind})")
