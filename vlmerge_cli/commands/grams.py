"""``vlmerge grams``: collect the XᵀX of every linear slot; add and show files of them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlmerge_cli import console
from vlmerge_cli.flags.common import (
    CheckpointArgument,
    DeviceOption,
    JsonOption,
    LayoutOption,
    ThreadsOption,
    parse_bytes,
)

ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A .grams.safetensors file.", show_default=False)]


class CollectsByDefault(TyperGroup):
    """``vlmerge grams CKPT ...`` is ``vlmerge grams collect CKPT ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["collect", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=CollectsByDefault,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def grams() -> None:
    """The XᵀX of every linear slot and expert, which RegMean needs.

    vlmerge grams CKPT --data SOURCE is short for vlmerge grams collect CKPT --data SOURCE.
    """


@app.command()
def collect(
    checkpoint: CheckpointArgument,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]PATH|shapes|digits",
            help="Image-text pairs; repeatable.",
            show_default="what the checkpoint was trained on",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", show_default="NAME.grams.safetensors")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="How many pairs, chosen at random; 0: all.")
    ] = 4096,
    split: Annotated[str, typer.Option("--split", metavar="train|val|test", help="Part of the data.")] = "train",
    passes: Annotated[
        str,
        typer.Option(
            "--passes",
            metavar="image,text,itc,joint",
            help="What is run: each modality alone, both through the cross-modal expert, both together.",
        ),
    ] = "all",
    include_padding: Annotated[
        bool, typer.Option("--include-padding", help="Count padding as the published code does.")
    ] = False,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="float32|float64|bfloat16",
            help="Of model and products; sums are in float64. float64 is for ill-conditioned data.",
        ),
    ] = "float32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pairs a batch.")] = 32,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="FILE|ORG/NAME|bundled",
            help="The vocabulary the model was trained with.",
            show_default="the checkpoint's own, or BERT's",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of examples.")] = 0,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory", metavar="SIZE", help="For the sums; more rounds over the data where it is not enough."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted collection.")] = False,
    num_workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that read data.")] = 0,
    max_bad_ratio: Annotated[
        float, typer.Option("--max-bad-ratio", min=0, max=1, help="Samples that may be unreadable.")
    ] = 0.01,
    layout: LayoutOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Run CKPT over image-text pairs and add up XᵀX of what each linear layer of each expert is given.

    Stopped by a signal or a crash, it loses a minute of work at most: --resume. Under torchrun every process takes
    its share of the data.
    """
    from vlmerge_cli import api
    from vlmerge_cli.grams import expert_inputs

    found = api.collect_grams(
        checkpoint, data or (), output=output, layout=layout, force=force, verbose=not json, split=split,
        num_examples=examples, batch_size=batch_size, passes=expert_inputs.parse(passes),
        include_padding=include_padding, precision=precision, tokenizer=tokenizer, seed=seed,
        max_memory_bytes=None if max_memory is None else parse_bytes(max_memory, "--max-memory"), device=device,
        threads=threads, num_workers=num_workers, max_bad_ratio=max_bad_ratio, resume=resume,
    )  # fmt: skip
    if json:
        console.show_json(found.to_dict())
        return
    about = found.about
    console.show(
        f"{found.output}\n  {len(found.tokens)} Gram matrices over {about['num_examples']} pairs of"
        f" {', '.join(about['data'])}, up to {max(found.tokens.values(), default=0):,} tokens each,"
        f" padding {'included' if about['padding'] else 'left out'}"
    )


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE FILE...", help="Of one checkpoint.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The sum.")],
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Add up files that were collected on one checkpoint, over different data or in different processes."""
    from vlmerge_cli.checkpoint.target import Target
    from vlmerge_cli.errors import UsageError
    from vlmerge_cli.grams import gram_file

    if len(files) < 2:
        raise UsageError("one file has nothing to be added to", fix="vlmerge grams add A B -o C")
    about = gram_file.add(files, Target(output, force))
    if json:
        console.show_json({"output": str(output), **about})
    else:
        console.show(f"{output}\n  the sum of {', '.join(str(path) for path in files)}")


@app.command()
def show(file: FileArgument, json: JsonOption = False) -> None:
    """Tokens, condition numbers and sizes of a file's Gram matrices."""
    import math
    from dataclasses import asdict

    from vlmerge_cli.checkpoint.reader import open_checkpoint
    from vlmerge_cli.grams import gram_file

    with open_checkpoint(str(file)) as opened:
        about = {name: value for name, value in opened.about().items() if name != "tokens"}
        with console.progress("solving", opened.num_bytes, quiet=json) as advance:
            found = list(gram_file.facts(opened, advance))
    if json:
        listed = [asdict(row) | {"condition": row.condition if math.isfinite(row.condition) else None} for row in found]
        console.show_json({"file": str(file), **about, "num_bytes": sum(r.num_bytes for r in found), "grams": listed})
        return
    console.show(f"{file} ({console.size(sum(row.num_bytes for row in found))})")
    for name, value in about.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        console.show(f"  {name.replace('_', ' '):<13} {shown}")
    rows = [
        (
            row.key,
            str(row.width),
            "unknown" if row.num_tokens is None else f"{row.num_tokens:,}",
            str(row.num_dead),
            f"{row.condition:.1e}" if math.isfinite(row.condition) else "singular",
            console.size(row.num_bytes),
        )
        for row in found
    ]
    console.show_table("", ("input of", "width", "tokens", "never active", "condition", "size"), rows)
    if any(not math.isfinite(row.condition) for row in found):
        console.say(
            "Singular: fewer tokens than columns, or inputs that are never active. RegMean needs --gamma below 1 or"
            " --ridge 1e-6 where the sum over the experts is singular too."
        )
