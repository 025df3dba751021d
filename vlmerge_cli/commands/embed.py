"""``vlmerge embed``: vectors of pictures and texts."""

from pathlib import Path
from typing import Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import CheckpointArgument, DeviceOption, JsonOption


def command(
    checkpoint: CheckpointArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.safetensors", help="Where vectors go.")],
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="Pictures, also in folders below.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", metavar="FILE", help="One text a line; empty lines do not count.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="vocab.txt, Hub id or bundled.", show_default="the checkpoint's")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures or texts at once.")] = 32,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without pictures that cannot be read.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Vectors of length 1 by CKPT, merged or not, whose products are cosines: `images` and `texts` of the output.

    The names of the pictures and the texts are in its metadata, in the same order.
    """
    from vlmerge_cli.checkpoint.target import Target
    from vlmerge_cli.data.unpaired_images_and_texts import lines_of
    from vlmerge_cli.errors import UsageError

    if images is None and texts is None:
        raise UsageError("nothing to embed", fix="--images FOLDER, --texts FILE or both")
    if output.suffix != ".safetensors":
        raise UsageError(f"-o {output}", fix="name a .safetensors file")
    target = Target(output, force)
    target.check()
    lines = [] if texts is None else lines_of(texts)
    from vlmerge_cli.inference import vectors
    from vlmerge_cli.inference.loaded import load

    model = load(checkpoint, device=device, tokenizer=tokenizer, batch_size=batch_size)
    found = vectors.embedded(model, images, lines, 1.0 if skip_bad else 0.0)
    written = vectors.write(found, checkpoint, target)
    if json:
        console.show_json(written)
    else:
        console.show(
            f"{written['output']}: {written['num_images']} pictures, {written['num_texts']} texts, "
            f"vectors of {written['width']}"
        )
