"""``vlmerge sweep``: many merges of one checkpoint, each scored."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import (
    CheckpointArgument,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    ReportOption,
    check_report,
    write_report,
)
from vlmerge_cli.flags.method import with_method_options
from vlmerge_cli.methods import METHODS
from vlmerge_cli.tasks import MEASURES, TASKS


@partial(with_method_options, ranges=True)
def command(
    checkpoint: CheckpointArgument,
    method: Annotated[str, typer.Option("-m", "--method", help=f"One of {', '.join(METHODS)}.")] = "interpolation",
    evaluate: Annotated[
        str, typer.Option("--evaluate", metavar="|".join([*TASKS, *MEASURES]), help="What each merge is scored on.")
    ] = "retrieval",
    finetune: Annotated[
        int, typer.Option("--finetune", metavar="STEPS", min=0, help="Train each merge so long first; 0: zero-shot.")
    ] = 0,
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
    max_samples: Annotated[int, typer.Option("--max-samples", help="The first so many.", show_default="all")] = 0,
    base: Annotated[str | None, typer.Option("--base", metavar="CKPT", help="For arithmetic.")] = None,
    grams: Annotated[str | None, typer.Option("--grams", metavar="FILE", help="For regmean.")] = None,
    experts_for: Annotated[
        str | None, typer.Option("--experts-for", metavar="retrieval|vqa|nlvr2", help="As in vlmerge merge.")
    ] = None,
    dtype: DtypeOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Settings of --finetune, as in vlmerge finetune.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the records.")] = Path("runs/sweep"),
    write_best: Annotated[
        Path | None, typer.Option("--write-best", metavar="PATH", help="Write the best merge (not fine-tuned).")
    ] = None,
    report: ReportOption = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Merge CKPT with every value of the options (0:1:0.25, or 0.1,0.5), read once, and score each merge.

    Scores are kept in OUT/sweep.jsonl; what is there is not done again.
    """
    from vlmerge_cli import devices
    from vlmerge_cli.checkpoint.target import Target
    from vlmerge_cli.methods.method import method_class
    from vlmerge_cli.outputs.replacing import check_no_cache, inputs_of
    from vlmerge_cli.study import sweep
    from vlmerge_cli.study.merged import Merging
    from vlmerge_cli.study.scored import scored

    flags = {option.name: option.flag for option in method_class(method).options()}
    merging = Merging(checkpoint, method, {}, base, grams, experts_for, dtype)
    points = sweep.grid(options, flags)
    for point in points:
        Merging(checkpoint, method, point).made()  # all that is wrong with options, before anything is done
    inputs = inputs_of(checkpoint, base, grams)
    if write_best is not None:
        Target(write_best, force).check(inputs)
    check_report(report)
    check_no_cache(out)
    where = devices.for_model(device)
    how = scored(checkpoint, evaluate, tuple(data or ()), split, max_samples, finetune, set_ or [], out, where)
    found = sweep.run(merging, points, how, out)
    chosen = sweep.best(found, how.main)
    if report is not None:
        write_report(found, report)
    if write_best is not None:
        settings = points[found.index(chosen) - 1]
        Merging(checkpoint, method, settings, base, grams, experts_for, dtype).write(write_best, force)
    if json:
        rows = [{**record.at, "scores": record.values} for record in found]
        console.show_json({"points": rows, "best": chosen.at["merge"], "chosen_by": how.main})
        return
    names = list(found[0].values)
    table = [[sweep.describe(r.at), *(f"{r.values[name]:.2f}" for name in names)] for r in found]
    console.show_table("", ("merge", *(name.replace("_", " ") for name in names)), table)
    console.show(f"scored on {', '.join(how.about['data'])}, {split}")
    console.show(f"best {how.main.replace('_', ' ')}: {sweep.describe(chosen.at)}")
