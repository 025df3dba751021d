"""``vlmerge evaluate``: the scores of a checkpoint on one benchmark."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from vlmerge_cli import console, devices
from vlmerge_cli.flags.common import CheckpointArgument, DeviceOption, ForceOption, JsonOption
from vlmerge_cli.tasks import MEASURES, TASKS


def command(
    checkpoint: CheckpointArgument,
    task: Annotated[str, typer.Option("--task", metavar="|".join([*TASKS, *MEASURES]), help="What to score.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]PATH[:WEIGHT]",
            help="The benchmark's folder; repeatable.",
            show_default="what CKPT was trained on",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="train|val|test")] = "val",
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="Write each sample's answer as JSON.")
    ] = None,
    chunk_size: Annotated[int, typer.Option("--chunk-size", min=1, help="Samples of a batch.")] = 64,
    max_samples: Annotated[int, typer.Option("--max-samples", help="The first so many.", show_default="all")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="vocab.txt, Hub id or bundled.", show_default="the checkpoint's")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A=B", help="What CKPT does not tell of the model, such as fusion_layer=8."),
    ] = None,
    num_workers: Annotated[int, typer.Option("--num-workers", min=0, help="Processes that read.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without samples that cannot be used.")] = False,
    precision: Annotated[str, typer.Option("--precision", metavar="float32|bfloat16|float16|float64")] = "float32",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Score CKPT; itm, and retrieval by a pre-trained checkpoint, are zero-shot."""
    from vlmerge_cli.errors import UsageError
    from vlmerge_cli.outputs.replacing import check_file, inputs_of
    from vlmerge_cli.tasks.task import measure

    if predictions is not None and not measure(task).has_predictions:
        raise UsageError(f"{task} has no answer for each sample", fix="leave --predictions out")
    if predictions is not None:
        check_file(predictions, force, inputs_of(checkpoint, tokenizer))
    where = devices.for_model(device)
    from vlmerge_cli.training.pretrain_config import chosen_settings
    from vlmerge_cli.training.scoring import Question, score

    question = Question(
        task, tuple(data or ()), split, tokenizer=tokenizer, chunk_size=chunk_size,
        max_samples=max_samples, num_workers=num_workers, precision=precision,
        max_bad_ratio=1.0 if skip_bad else 0.0, model=chosen_settings(None, {}, set_ or []),
    )  # fmt: skip
    found = score(checkpoint, question, where)
    scores = found.scores
    if predictions is not None:
        from vlmerge_cli import ranks
        from vlmerge_cli.outputs.whole import write_whole

        if ranks.is_main():
            write_whole(predictions, (json_module.dumps(scores.predictions) + "\n").encode())
    if json:
        document = {
            "task": task, "data": list(found.data), "split": split, "num_samples": scores.num_samples,
            "scores": scores.values, "groups": scores.groups, "seconds": round(found.seconds, 3),
            "samples_per_second": round(found.samples_per_second, 1), "skipped": found.bad,
        }  # fmt: skip
        console.show_json(document)
        return
    rows = [(name.replace("_", " "), f"{value:.2f}") for name, value in scores.values.items()]
    console.show_table("", (f"{task}, {split} of {', '.join(found.data)}", "%"), rows)
    for what, groups in scores.groups.items():
        names = list(dict.fromkeys(name for values in groups.values() for name in values))
        cells = [[group, *(_shown(values.get(name)) for name in names)] for group, values in groups.items()]
        console.show_table("", (what.replace("_", " "), *(name.replace("_", " ") for name in names)), cells)
    console.show(
        f"{scores.num_samples} samples in {found.seconds:.1f} s, {found.samples_per_second:.1f} samples per second"
    )


def _shown(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"
