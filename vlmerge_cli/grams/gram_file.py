"""The file of Gram matrices: ``NAME.grams.safetensors``.

Under the key of each expert's weight, the upper triangle of XᵀX packed by rows (row i holds columns i ... d-1) in
float64: sums over tokens, not means, so that two files of one checkpoint add up. The metadata holds, as JSON under
``vlmerge``: ``checkpoint`` (its digest), ``tokens`` (key -> count), and how it was collected (``data``,
``num_examples``, ``passes``, ``padding``, ``precision``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.named_tensors import NamedTensors
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import create
from vlmerge_cli.errors import CheckpointError, MergeError
from vlmerge_cli.methods import linalg
from vlmerge_cli.methods.linalg import packed_size, packed_width
from vlmerge_cli.outputs.replacing import GRAMS, grams_beside, hub_name, in_hub_cache
from vlmerge_cli.version import __version__

if TYPE_CHECKING:
    import numpy as np

    NumpyArray = np.ndarray[Any, Any]

#: Of what is stored, the part that only sums of the same kind share; the rest is listed for both.
MUST_AGREE = ("checkpoint", "padding")


def write(
    target: Target, widths: Mapping[str, int], triangle: Callable[[str], NumpyArray], about: Mapping[str, Any]
) -> None:
    """Write a file with a Gram for each of ``widths``, one at a time."""
    specs = {key: Spec("F64", (packed_size(width),)) for key, width in widths.items()}
    described = json.dumps({"version": __version__, **about}, sort_keys=True)
    with create(target, specs, {"format": "pt", "vlmerge": described}) as output:
        for key in specs:
            output.write(key, 0, triangle(key))


def sibling_grams(checkpoint: NamedTensors) -> Path:
    """Where the Grams of a checkpoint lie unless the user says otherwise; those of one in a Hub cache lie here."""
    if in_hub_cache(checkpoint.path.absolute()):
        return Path(hub_name(checkpoint.path.absolute()) + GRAMS)
    path = checkpoint.path.resolve() if checkpoint.folder else checkpoint.path
    return grams_beside(path)


def token_counts(grams: NamedTensors) -> dict[str, int]:
    """Key -> number of tokens; empty where the file does not say."""
    found = grams.about().get("tokens")
    if not isinstance(found, dict):
        return {}
    return {key: count for key, count in found.items() if isinstance(count, int) and count > 0}


def recorded_data(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The ``--data`` that a checkpoint of this tool was trained on; empty where that is not known."""
    from vlmerge_cli.data.provenance import found_again

    return found_again(checkpoint.about(), checkpoint.path)


def add(sources: Sequence[str | Path], target: Target) -> dict[str, Any]:
    """The sums over the data of all sources, and what is known of them.

    Raises CheckpointError unless they were collected on one checkpoint, in one way.
    """
    import numpy as np

    target.check(Path(source) for source in sources)
    with ExitStack() as stack:
        files = [stack.enter_context(open_checkpoint(str(source))) for source in sources]
        described = _combined(files)
        specs: dict[str, Spec] = {}
        for file in files:
            for key, tensor in file.tensors.items():
                if tensor.dtype != "F64":
                    raise CheckpointError(f"{key} is {tensor.dtype}, Gram sums are F64", where=file.name)
                if specs.setdefault(key, tensor.spec) != tensor.spec:
                    what = f"{key} is {tensor.shape} here and {specs[key].shape} in another file"
                    raise CheckpointError(what, where=file.name)
        metadata = {"format": "pt", "vlmerge": json.dumps(described, sort_keys=True)}
        with create(target, specs, metadata) as output:
            for key in specs:
                held = [np.frombuffer(file.read(key), np.float64) for file in files if key in file.tensors]
                output.write(key, 0, sum(held[1:], start=held[0]))  # in the order of the files
    return described


def _combined(files: list[Checkpoint]) -> dict[str, Any]:
    """Metadata of a sum of files."""
    first = files[0].about()
    for file in files[1:]:
        about = file.about()
        for name in MUST_AGREE:
            if about.get(name) != first.get(name):
                what = f"{file.name} and {files[0].name} do not add up: {name} is"
                what += f" {about.get(name)} and {first.get(name)}"
                raise CheckpointError(what, fix="collect both on the same checkpoint in the same way")
    counts: dict[str, int] = {}
    for file in files:
        its = token_counts(file)
        for key in file.tensors:
            if key in its:
                counts[key] = counts.get(key, 0) + its[key]
    complete = all(key in token_counts(file) for file in files for key in file.tensors)
    lists = {
        name: list(dict.fromkeys(entry for file in files for entry in file.about().get(name, [])))
        for name in ("data", "passes")
    }
    described = {**first, "version": __version__, "tokens": counts if complete else {}}
    described |= {name: values for name, values in lists.items() if values}
    examples = [file.about().get("num_examples") for file in files]
    if all(isinstance(number, int) for number in examples):
        described["num_examples"] = sum(examples)
    return described


@dataclass(frozen=True)
class GramFacts:
    """What one Gram is like; ``condition`` estimates its condition number (infinite: singular)."""

    key: str
    width: int
    num_tokens: int | None
    num_dead: int
    condition: float
    num_bytes: int


def facts(file: Checkpoint, advance: Callable[[int], object] = lambda _: None) -> Iterator[GramFacts]:
    """Facts of each Gram, in file order. Raises CheckpointError for what is no Gram, MergeError for NaN."""
    import numpy as np

    counts = token_counts(file)
    for key, tensor in file.tensors.items():
        square = len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]
        width = tensor.shape[0] if square else packed_width(tensor.num_elements)
        if tensor.dtype not in ("F64", "F32") or (len(tensor.shape) != 1 and not square) or width < 0:
            what = f"{key} of type {tensor.dtype} and shape {tensor.shape} is no Gram matrix"
            raise CheckpointError(what, where=file.name)
        values = np.frombuffer(file.read(key), np.float64 if tensor.dtype == "F64" else np.float32)
        full = linalg.as_float64(values.reshape(width, width)) if square else linalg.unpack(values)
        if not np.isfinite(full).all():
            raise MergeError(f"{key} holds NaN or infinity", where=file.name)
        dead = int((full.diagonal() == 0).sum())
        condition = linalg.solve(full, np.zeros((1, width))).condition
        yield GramFacts(key, width, counts.get(key), dead, condition, tensor.num_bytes)
        advance(tensor.num_bytes)
