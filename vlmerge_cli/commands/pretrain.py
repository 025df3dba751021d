"""``vlmerge pretrain``: from nothing to a checkpoint worth merging."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import DeviceOption, JsonOption


def command(
    config: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="Settings.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="micro|small|tiny|base|large", show_default="small")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="specific, custom-attn, custom-ffn, custom-ln or agnostic.",
            show_default="specific",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]PATH[:WEIGHT]",
            help="shapes, digits, tar shards or Karpathy JSON; repeatable.",
            show_default="shapes",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="In all phases together.")] = None,
    seed_steps: Annotated[
        int | None, typer.Option("--seed-steps", help="On the agnostic model first; 0 leaves the phase out.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Of all processes together.")] = None,
    init: Annotated[str | None, typer.Option("--init", metavar="CKPT", help="Starting weights.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/pretrain"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting, such as optimizer.lr=1e-3.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", metavar="float32|bfloat16|float16|float64")] = None,
    parallel: Annotated[str | None, typer.Option("--parallel", metavar="ddp|fsdp", help="Under torchrun.")] = None,
    max_bad_ratio: Annotated[
        float | None,
        typer.Option("--max-bad-ratio", help="Share of samples that may be bad.", show_default="0.01"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last saved state.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove what is in the run folder.")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the settings and exit.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Pre-train a model by ITC, ITM and MLM; without arguments a small one on the built-in data set, in minutes.

    Defaults by model size: those of the paper for base. The same command runs under torchrun.
    """
    from vlmerge_cli.training.pretrain_config import load

    given: dict[str, Any] = {
        "model": model, "arch": arch, "data": data or None, "steps": steps, "seed_steps": seed_steps,
        "batch_size": batch_size, "init": init, "precision": precision, "parallel": parallel,
        "max_bad_ratio": max_bad_ratio,
    }  # fmt: skip
    settings = load(config, given, set_ or [])
    if show_config:
        console.show(settings.to_yaml().rstrip())
        return
    from vlmerge_cli import devices

    where = devices.for_model(device)
    from vlmerge_cli.training.pretrain import Run, pretrain

    folder = pretrain(Run(settings, out, where), resume, force)
    if json:
        console.show_json({"checkpoint": str(folder / "model.safetensors"), "steps": settings.steps})
    else:
        console.show(f"{folder / 'model.safetensors'}")
