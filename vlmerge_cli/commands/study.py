"""``vlmerge study``: the paper's experiment from start to end."""

from pathlib import Path
from typing import Annotated

import typer

from vlmerge_cli import console
from vlmerge_cli.flags.common import DeviceOption, JsonOption


def command(
    config: Annotated[Path | None, typer.Argument(metavar="[STUDY.yaml]", help="Settings.", show_default=False)] = None,
    preset: Annotated[str, typer.Option("--preset", metavar="quick|full|gpu", help="What the settings start from.")] = (
        "quick"
    ),
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="NAME",
            help="seeding, methods, sharing, tasks, widths or after; repeatable.",
            show_default="all",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="1,2,3", show_default="1; full and gpu: 1,2,3")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting, such as steps=2000.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder.", show_default="runs/study-PRESET")] = Path(),
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Nodes side by side.", show_default="one a processor; on a GPU 1"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is to be done and how long it takes.")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the settings and exit.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train, merge, fine-tune and score the paper's grid. What is there already is not done again.

    Presets: quick takes minutes on two processors, full an hour or so, gpu is for one GPU. The report is in OUT/report.
    """
    from vlmerge_cli import devices, ranks
    from vlmerge_cli.commands.report import show_written
    from vlmerge_cli.errors import TrainingError, UsageError, nearest
    from vlmerge_cli.reports import build
    from vlmerge_cli.study import estimate, grid, nodes, run, settings

    chosen = settings.load(preset, config, set_ or [])
    if show_config:
        console.show(chosen.to_yaml().rstrip())
        return
    for name in part or []:
        if name not in grid.PARTS:
            raise UsageError(f"no part {name!r}", fix=nearest(name, grid.PARTS))
    numbers = _seeds(seeds or ("1" if preset == "quick" else "1,2,3"))
    where = devices.resolve(device, prefer_gpu=True)
    if ranks.world_size() > 1:  # else workers train, each in a process of its own
        devices.use(where)
    folder = out if out != Path() else Path("runs") / f"study-{preset}"
    study = run.Study(chosen, numbers, grid.build(chosen, numbers), folder, where)
    wanted = nodes.chosen(study.nodes, part or [])
    missing = study.missing(wanted)
    seconds = estimate.seconds_of(chosen, folder / run.COSTS, where)
    num_workers = workers or (devices.num_cpus() if where == "cpu" else 1)
    expected = estimate.announced(missing, seconds, num_workers)
    if dry_run:
        if json:
            rows = [{"node": n.name, "kind": n.work.kind, "seconds": round(seconds(n), 1)} for n in missing]
            console.show_json({"nodes": rows, "seconds": round(expected), "workers": num_workers})
            return
        console.show_table("", ("node", "what", "s"), [(n.name, n.work.kind, f"{seconds(n):.0f}") for n in missing])
    console.say(
        f"{preset}: {len(missing)} of {len(wanted)} nodes to do, about {console.duration(expected)} "
        f"with {num_workers} at a time"
    )
    if dry_run:
        return
    failed = run.run(study, wanted, num_workers, seconds)
    if ranks.is_main():
        written = build.write(build.load(folder), folder / "report")
        if json:
            console.show_json({"page": str(written.page), "records": str(folder / run.RECORDS), "failed": failed})
        else:
            show_written(written)
    if failed:
        fix = f"each says why in {folder / 'nodes'}/NAME/log.txt; the same command tries them again"
        raise TrainingError(f"{len(failed)} nodes failed: {', '.join(failed[:5])}", where=str(folder), fix=fix)


def _seeds(text: str) -> tuple[int, ...]:
    from vlmerge_cli.errors import UsageError

    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"--seeds {text}", fix="write --seeds 1,2,3") from None
