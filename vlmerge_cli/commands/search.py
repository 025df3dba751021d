"""``vlmerge search``: the pictures of a folder that show what a text says."""

from pathlib import Path
from typing import Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import CheckpointArgument, DeviceOption, JsonOption


def command(
    checkpoint: CheckpointArgument,
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help='What to look for: "two red circles".', show_default=False)
    ],
    images: Annotated[Path, typer.Option("--images", metavar="FOLDER", help="Pictures, also in folders below.")],
    num: Annotated[int, typer.Option("--num", min=1, help="Pictures to show for each text.")] = 10,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE.html", help="Show the pictures on a page of its own.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="vocab.txt, Hub id or bundled.", show_default="the checkpoint's")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at once.")] = 32,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without pictures that cannot be read.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Find pictures by what they show: those whose vectors by CKPT, merged or not, are nearest to TEXT's."""
    from vlmerge_cli.outputs.replacing import check_file, inputs_of
    from vlmerge_cli.outputs.whole import write_whole

    if page is not None:
        check_file(page, force, inputs_of(checkpoint, images))
    from vlmerge_cli.inference import vectors
    from vlmerge_cli.inference.found_page import page as page_of
    from vlmerge_cli.inference.loaded import load

    model = load(checkpoint, device=device, tokenizer=tokenizer, batch_size=batch_size)
    found = vectors.search(vectors.embedded(model, images, texts, 1.0 if skip_bad else 0.0), num)
    if page is not None:
        write_whole(page, page_of(found, checkpoint).encode())
        console.say(f"page: {page}")
    if json:
        console.show_json({text: [row.to_dict() for row in rows] for text, rows in found.items()})
        return
    for text, rows in found.items():
        console.show_table(
            "", ("", text, "cosine"), [(str(n), r.image, f"{r.cosine:.3f}") for n, r in enumerate(rows, 1)]
        )
