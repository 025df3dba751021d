"""The Python interface: what a command does, as one typed function.

    import vlmerge_cli as vlmerge

    vlmerge.distance("ckpt.safetensors", by="layer").whole.tssd
    vlmerge.merge("ckpt.safetensors", method="regmean", gamma=0.5, output="merged.safetensors")

Nothing is printed: ``progress`` is called with the work done and all of it (bytes), and ``verbose`` shows on stderr
what the command line shows. Errors are those of ``vlmerge_cli.errors``. A returned value is frozen, ``to_dict()`` is
what the command prints with ``--json``, and a notebook shows it as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vlmerge_cli import console, devices
from vlmerge_cli.checkpoint.dtypes import stored_type
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.layouts.layout import Layout, named
from vlmerge_cli.layouts.survey import find

if TYPE_CHECKING:
    from vlmerge_cli.checkpoint.legacy import Summary as Conversion
    from vlmerge_cli.distances.table import DistanceTable
    from vlmerge_cli.grams.collected import Collected
    from vlmerge_cli.merging.inspection import Inspection
    from vlmerge_cli.merging.merge import Summary
    from vlmerge_cli.merging.preview import Preview
    from vlmerge_cli.path_diagnosis import Finding

Progress: TypeAlias = Callable[[int, int], object]
PathLike: TypeAlias = str | Path
SHARD_BYTES = 5_000_000_000


def inspect(checkpoint: PathLike, *, layout: str | Layout | None = None, keys: bool = False) -> Inspection:
    """What is inside a checkpoint, from its headers alone; with ``keys`` every key's type and shape.

    Raises CheckpointError, and LayoutError for a ``layout`` that does not fit.
    """
    from vlmerge_cli.merging.inspection import inspected

    with open_checkpoint(checkpoint) as opened:
        return inspected(opened, _layout(layout), keys)


def merge(
    checkpoint: PathLike,
    method: str = "interpolation",
    *,
    output: PathLike | None = None,
    base: PathLike | None = None,
    grams: PathLike | None = None,
    layout: str | Layout | None = None,
    keep: Sequence[str] = (),
    experts_for: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    allow_non_finite: bool = False,
    full_digest: bool = False,
    sync: bool = True,
    force: bool = False,
    residuals: bool = False,
    data: Sequence[str] = (),
    num_examples: int | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
    **options: Any,
) -> Summary:
    """Merge the experts of a checkpoint into one modality-agnostic transformer, written to ``output``.

    ``options`` are the method's (``alpha``, ``gamma``, ``lam``, ...); other arguments are those of ``vlmerge merge``.
    ``output`` is a ``.safetensors`` file or a folder, by default beside the checkpoint. ``residuals`` adds how far
    every slot is from keeping the experts' outputs, which needs Grams. ``data`` and ``num_examples`` are the pairs that
    ``layerwise`` is fitted on, by default 512 of what the checkpoint was trained on. Raises UsageError,
    CheckpointError, LayoutError, PlanError and MergeError; an error leaves no output.
    """
    from vlmerge_cli.checkpoint.target import Target
    from vlmerge_cli.layerwise.data_of_merge import sources_of, with_data
    from vlmerge_cli.merging.merge import Settings, run
    from vlmerge_cli.merging.opening import check_output, default_output

    settings = Settings(device, threads or Settings().threads, allow_non_finite, full_digest)
    with (
        _spoken(verbose),
        _ready(checkpoint, method, options, base, grams, layout, keep, experts_for, dtype, residuals) as ready,
    ):
        path = Path(output) if output is not None else default_output(ready.checkpoint)
        target = Target(path, force, sync, max_shard_bytes)
        check_output(ready, target)
        ready = with_data(ready, path, sources_of(ready, data, num_examples), num_examples, device)
        with _advancing("merging", ready.checkpoint.num_bytes, progress) as advance:
            summary = run(ready, target, settings, advance)
        if not residuals:
            return summary
        from vlmerge_cli.merging.residuals import residuals as compare

        assert ready.grams is not None, "asked for when the merge was prepared"
        with open_checkpoint(path) as merged, _advancing("comparing", ready.checkpoint.num_bytes, progress) as advance:
            found = compare(ready.plan, ready.checkpoint, ready.grams, merged, settings.threads, advance)
        return replace(summary, residuals=tuple(found))


def plan(
    checkpoint: PathLike,
    method: str = "interpolation",
    *,
    output: PathLike | None = None,
    base: PathLike | None = None,
    grams: PathLike | None = None,
    layout: str | Layout | None = None,
    keep: Sequence[str] = (),
    experts_for: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    force: bool = False,
    residuals: bool = False,
    data: Sequence[str] = (),
    num_examples: int | None = None,
    **options: Any,
) -> Preview:
    """What ``merge`` would do with the same arguments: every key's step, bytes and memory. Nothing is written."""
    from vlmerge_cli.checkpoint.target import Target
    from vlmerge_cli.layerwise.data_of_merge import sources_of
    from vlmerge_cli.merging.merge import Settings
    from vlmerge_cli.merging.opening import check_output, default_output
    from vlmerge_cli.merging.preview import preview

    with _ready(checkpoint, method, options, base, grams, layout, keep, experts_for, dtype, residuals) as ready:
        path = Path(output) if output is not None else default_output(ready.checkpoint)
        check_output(ready, Target(path, force))
        sources_of(ready, data, num_examples)
        return preview(ready, threads or Settings().threads, str(path))


def merge_tensors(
    tensors: Mapping[str, Any],
    method: str = "interpolation",
    *,
    layout: str | Layout = "vl-merging",
    base: Mapping[str, Any] | None = None,
    grams: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    experts_for: str | None = None,
    allow_non_finite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Merge tensors that are in memory, by key: numpy arrays in, numpy arrays out, and torch tensors likewise.

    What is merged how is as for ``merge``, and so are the numbers, bit for bit; nothing of ``tensors`` is changed.
    ``grams`` are under the experts' weight keys, (in, in) or packed. Raises UsageError, LayoutError, PlanError and
    MergeError.
    """
    from vlmerge_cli.merging.in_memory import merged
    from vlmerge_cli.merging.plan import Request
    from vlmerge_cli.methods.method import make

    chosen = make(method, options)
    return merged(tensors, chosen, _layout(layout), base, grams, Request(tuple(keep), experts_for), allow_non_finite)


def distance(
    checkpoint: PathLike,
    *,
    by: str = "layer",
    pairs: Sequence[str] = (),
    truncate: float = 0.5,
    weights_only: bool = False,
    layout: str | Layout | None = None,
    dtype: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> DistanceTable:
    """L2, cosine, SSD and TSSD between experts, whole and by layer, module or slot: the smaller, the better they merge.

    ``pairs`` are written ``"v,l"``; none is the first pair there is, ``"all"`` every one. Experts of different float
    types are compared as they are, or all rounded to ``dtype`` (``"bfloat16"``) first.
    Raises UsageError, CheckpointError, LayoutError, PlanError and MergeError.
    """
    devices.load_numpy()
    from vlmerge_cli.distances.measure import GROUPINGS
    from vlmerge_cli.distances.table import tabulate

    if by not in GROUPINGS:
        raise UsageError(f"--by {by}", fix=nearest(by, GROUPINGS))
    stored = None if dtype is None else stored_type(dtype)
    where, workers = devices.resolve(device, prefer_gpu=False), threads or min(4, devices.num_cpus())
    with _spoken(verbose), open_checkpoint(checkpoint) as opened:
        survey, _ = find(opened.tensors, _layout(layout), str(checkpoint))

        def bar(title: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
            return _advancing(title, total, progress)

        return tabulate(opened, survey, pairs, by, truncate, weights_only, workers, where, bar, stored)


def doctor(path: PathLike, *, quick: bool = False) -> Finding:
    """What a checkpoint, Gram file, run folder or data set is, what is wrong with it, and what commands would do.

    Nothing is changed, and what is wrong is told and not raised: see ``state``, ``problems`` and ``first_line``. Every
    weight is read, a piece at a time, and looked at for NaN and infinity; ``quick`` reads headers alone.
    """
    from vlmerge_cli.path_diagnosis import examined

    return examined(str(path), quick)


def collect_grams(
    checkpoint: PathLike,
    data: Sequence[str] = (),
    *,
    output: PathLike | None = None,
    layout: str | Layout | None = None,
    force: bool = False,
    verbose: bool = False,
    **choices: Any,
) -> Collected:
    """Run a checkpoint over image-text pairs and write the Gram matrices that RegMean needs beside it.

    ``data`` are sources as ``--data`` names them, by default what the checkpoint says it was trained on; ``choices``
    are the fields of ``grams.from_data.Choices`` (``num_examples``, ``batch_size``, ``passes``, ...). For a module of
    your own see ``grams.collector``. Raises UsageError, CheckpointError, LayoutError, PlanError, DataError, MergeError.
    """
    from vlmerge_cli.checkpoint.target import Target
    from vlmerge_cli.grams.collected import Collected
    from vlmerge_cli.grams.from_data import Choices, collect
    from vlmerge_cli.grams.gram_file import recorded_data, sibling_grams

    with _spoken(verbose), open_checkpoint(checkpoint) as opened:
        sources = tuple(data) or recorded_data(opened)
        if not sources:
            raise UsageError("no --data, and the checkpoint does not say what it was trained on", fix="--data SOURCE")
        survey, _ = find(opened.tensors, _layout(layout), str(checkpoint))
        path = Path(output) if output is not None else sibling_grams(opened)
        return Collected.of(path, collect(opened, survey, Target(path, force), Choices(data=sources, **choices)))


def convert(source: PathLike, target: PathLike, *, force: bool = False, sync: bool = True) -> Conversion:
    """PyTorch files (.ckpt .pt .pth .bin) to safetensors, without running what is in them. Raises CheckpointError."""
    from vlmerge_cli.checkpoint.legacy import convert as converted
    from vlmerge_cli.weights.inferred_config import told_config

    return converted(Path(source), Path(target), force=force, sync=sync, config_of=told_config)


@contextmanager
def _ready(
    checkpoint: PathLike, method: str, options: Mapping[str, Any], base: PathLike | None, grams: PathLike | None,
    layout: str | Layout | None, keep: Sequence[str], experts_for: str | None, dtype: str | None, with_grams: bool,
) -> Iterator[Any]:  # fmt: skip
    from vlmerge_cli.merging.opening import Inputs, prepared
    from vlmerge_cli.merging.plan import Request
    from vlmerge_cli.methods.method import make

    chosen, request = make(method, options), Request(tuple(keep), experts_for, dtype)
    base_name, grams_name = (None if path is None else str(path) for path in (base, grams))
    inputs = Inputs(str(checkpoint), base_name, grams_name, _layout(layout))
    with prepared(inputs, chosen, request, with_grams) as ready:
        yield ready


def _layout(layout: str | Layout | None) -> Layout | None:
    return named(layout) if isinstance(layout, str) else layout


def _spoken(verbose: bool) -> AbstractContextManager[object]:
    return nullcontext() if verbose else console.muted()


@contextmanager
def _advancing(title: str, total: int, progress: Progress | None) -> Iterator[Callable[[int], object]]:
    """Tells the bar how much was done now, and ``progress`` how much in all."""
    done = 0
    with console.progress(title, total) as bar:

        def advance(amount: int) -> None:
            nonlocal done
            bar(amount)
            if progress is not None:
                done += amount
                progress(done, total)

        yield advance
