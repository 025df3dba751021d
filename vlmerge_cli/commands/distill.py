"""``vlmerge distill``: a merge trained for a minute to act like the model it was made of."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console, devices
from vlmerge_cli.flags.common import CheckpointArgument, DeviceOption, JsonOption
from vlmerge_cli.methods import METHODS


def command(
    checkpoint: CheckpointArgument,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="RUN.yaml", help="Settings.", show_default=False)
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="[NAME=]PATH[:WEIGHT]", help="Pairs; repeatable.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", metavar="FOLDER", help="Pictures without texts.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", metavar="FILE", help="A text a line, of no picture.", show_default="the model's own"),
    ] = None,
    no_data: Annotated[bool, typer.Option("--no-data", help="Make pictures and texts up.")] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="METHOD|CKPT|random",
            help=f"What is trained: a merge by one of {', '.join(METHODS)}, or a merged checkpoint.",
            show_default="interpolation",
        ),
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", min=0, help="Of the inputs; 0: all.", show_default="2048")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", show_default="300")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Of all processes together.", show_default="64")
    ] = None,
    trains: Annotated[
        str | None, typer.Option("--trains", metavar="blocks|norms|all", help="norms: norms and biases alone.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/distill"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting, such as optimizer.lr=1e-3.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", metavar="float32|bfloat16|float16|float64")] = None,
    parallel: Annotated[str | None, typer.Option("--parallel", metavar="ddp|fsdp", help="Under torchrun.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last saved state.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove what is in the run folder.")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the settings and exit.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Merge CKPT and train the merge to act like CKPT: on pairs, on pictures alone, or on nothing but noise.

    No label and no pairing is used.
    """
    from vlmerge_cli.training.distill_config import load
    from vlmerge_cli.training.start import look

    given: dict[str, Any] = {
        "checkpoint": checkpoint, "data": data or None, "images": images and str(images), "texts": texts and str(texts),
        "synthetic": no_data or None, "start": start, "num_examples": examples, "steps": steps, "trains": trains,
        "batch_size": batch_size, "precision": precision, "parallel": parallel,
    }  # fmt: skip
    settings = load(look(checkpoint), config, given, set_ or [])
    if show_config:
        console.show(settings.to_yaml().rstrip())
        return
    merging = None
    if settings.start in METHODS:
        from vlmerge_cli.study.merged import Merging

        merging = Merging(checkpoint, settings.start)
        merging.check()
    where = devices.for_model(device)
    from vlmerge_cli.training.distill import Run, distill

    folder = distill(Run(settings, out, where), resume, force, None if merging is None else merging.write)
    best = folder / "best" / "model.safetensors"
    if json:
        console.show_json({"last": str(folder / "model.safetensors"), "best": str(best)})
    else:
        console.show(f"{best}")
