"""``vlmerge finetune``: a checkpoint, merged or not, trained on one task."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console, devices
from vlmerge_cli.flags.common import CheckpointArgument, DeviceOption, JsonOption
from vlmerge_cli.flags.method import with_method_options
from vlmerge_cli.methods import METHODS
from vlmerge_cli.tasks import TASKS


@with_method_options
def command(
    checkpoint: CheckpointArgument,
    task: Annotated[str | None, typer.Option("--task", metavar="|".join(TASKS), help="What to train for.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="RUN.yaml", help="Settings.", show_default=False)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="[NAME=]PATH[:WEIGHT]", help="The benchmark's folder; repeatable.", show_default="shapes"
        ),
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option("--merge", metavar="METHOD", help=f"Merge first, by one of {', '.join(METHODS)}."),
    ] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="CKPT", help="For --merge arithmetic.")] = None,
    grams: Annotated[str | None, typer.Option("--grams", metavar="FILE", help="For --merge regmean.")] = None,
    experts_for: Annotated[
        str | None, typer.Option("--experts-for", metavar="retrieval|vqa|nlvr2", help="As in vlmerge merge.")
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Start values instead of the weights, for comparison.")
    ] = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Instead of epochs.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Of all processes together.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="At its peak.")] = None,
    image_px: Annotated[int | None, typer.Option("--image-px", help="Positions are resized to it.")] = None,
    answers: Annotated[int | None, typer.Option("--answers", help="VQA: how many, the most frequent ones.")] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="End after so many validations without a better score.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without samples that cannot be used.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder.", show_default="runs/TASK")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting, such as optimizer.lr=1e-4.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", metavar="float32|bfloat16|float16|float64")] = None,
    parallel: Annotated[str | None, typer.Option("--parallel", metavar="ddp|fsdp", help="Under torchrun.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last saved state.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove what is in the run folder.")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the settings and exit.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Fine-tune CKPT (specific, agnostic or merged, or merged on the way in) on one task.

    Defaults are those of the task: the paper's, or those for the built-in data set.
    """
    from vlmerge_cli.errors import UsageError
    from vlmerge_cli.study.merged import Merging
    from vlmerge_cli.training.finetune_config import load
    from vlmerge_cli.training.start import look

    merging = None
    if merge is not None:
        merging = Merging(checkpoint, merge, options, base, grams, experts_for)
        merging.check()
    elif any(value is not None for value in (base, grams, experts_for, *options.values())):
        raise UsageError("options of a merge without --merge", fix=f"--merge {'|'.join(METHODS)}")
    given: dict[str, Any] = {
        "task": task, "checkpoint": checkpoint, "data": data or None, "steps": steps, "epochs": epochs,
        "batch_size": batch_size, "image_px": image_px, "num_answers": answers, "patience": patience,
        "optimizer.lr": learning_rate, "precision": precision, "parallel": parallel, "random": random or None,
        "max_bad_ratio": 1.0 if skip_bad else None, "merge": None if merging is None else merging.described(),
    }  # fmt: skip
    settings = load(look(checkpoint), config, given, set_ or [])
    if show_config:
        console.show(settings.to_yaml().rstrip())
        return
    where = devices.for_model(device)
    from vlmerge_cli.training.finetune import Run, finetune

    run = Run(settings, out or Path("runs") / settings.task, where)
    folder = finetune(run, resume, force, None if merging is None else merging.write)
    best = folder / "best" / "model.safetensors"
    if json:
        console.show_json({"last": str(folder / "model.safetensors"), "best": str(best)})
    else:
        console.show(f"{best}")
