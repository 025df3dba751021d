"""What a path is, whether it is whole and fits together, and what commands would do with it; nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmerge_cli import console, records
from vlmerge_cli.checkpoint import door
from vlmerge_cli.checkpoint.dtypes import is_float
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.checkpoint.small_files import adapter_in
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.provenance import recorded
from vlmerge_cli.data.readers import READERS, open_reader, reader
from vlmerge_cli.errors import CheckpointError, DataError, LayoutError, VlmergeError
from vlmerge_cli.grams.gram_file import sibling_grams, token_counts
from vlmerge_cli.layouts.survey import Survey, detect
from vlmerge_cli.merging.opening import Inputs, prepared
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods.method import make
from vlmerge_cli.outputs.replacing import GRAMS
from vlmerge_cli.result_base import Result

PIECE_BYTES = 1 << 22  # of a tensor that are looked at together
State = Literal["whole", "doubtful", "broken"]
#: What a run of training leaves in its folder.
RUN_SETTINGS = ("pretrain.yaml", "finetune.yaml", "distill.yaml", "study.yaml")
#: A vocabulary of questions is made for any number of them, however few: rare answers are no fault of the data.
MOST_ANSWERS = 3129
#: What readers say of a split that a data set simply has not.
NO_SPLIT = re.compile("no split|of split|no questions of")
EXIT_CODES: dict[State, int] = {"whole": 0, "broken": 1, "doubtful": 3}


@dataclass(frozen=True)
class Finding(Result):
    """``kind`` says what a path is; ``problems`` come worst first; ``commands`` what each would do."""

    path: str
    kind: str
    state: State
    problems: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.state]

    @property
    def first_line(self) -> str:
        return f"{self.path}: {self.problems[0] if self.problems else f'{self.kind}, whole'}"


def examined(path: str, quick: bool = False) -> Finding:
    """Look at a checkpoint, a Gram file, a run folder or a data set; what is wrong is found, never raised.

    Every weight is read and looked at for NaN and infinity, a piece at a time; ``quick`` reads headers alone.
    """
    with console.muted():
        try:
            return _examined(path, quick)
        except VlmergeError as error:
            return Finding(path, "nothing that can be used", "broken", (_told(error),))
        except OSError as error:
            return Finding(path, "nothing that can be read", "broken", (error.strerror or str(error),))


def _examined(path: str, quick: bool) -> Finding:
    place = Path(path)
    if place.is_dir() and any((place / name).is_file() for name in RUN_SETTINGS):
        return _run(path, place)
    if place.suffix in door.PICKLES and place.is_file() and not _is_safetensors(path):
        return _pickle(path, place)
    if found := _data(path, place):
        return found
    if place.is_dir() and any(place.glob("*.jsonl")) and not any(place.glob("*.safetensors*")):
        return _run(path, place)
    with open_checkpoint(path) as opened:
        return (_grams if opened.path.name.endswith(GRAMS) else _checkpoint)(path, opened, quick)


def _is_safetensors(path: str) -> bool:
    """Whether a file that is named as PyTorch's are can be read as it is."""
    try:
        open_checkpoint(path).close()
    except CheckpointError:
        return False
    return True


def _checkpoint(path: str, opened: Checkpoint, quick: bool) -> Finding:
    bad, zeros = ([], set()) if quick else _looked_at(opened)
    doubts, not_finite = list(_doubts(opened)), _told_of(bad)
    try:
        opened.config()
        survey, _ = detect(opened.tensors, opened.name)
    except LayoutError as error:
        return Finding(path, "a checkpoint of no known layout", "doubtful", (_told(error), *doubts, *not_finite))
    except CheckpointError as error:
        return Finding(path, "a checkpoint", "broken", (_told(error), *doubts, *not_finite))
    others = list(_doubts_of(survey))
    if not survey.groups:
        commands = (("merge", "refuses it: it is merged already"), ("evaluate", "scores it"))
        problems = (*doubts, *not_finite, *others)
        return Finding(path, f"a merged checkpoint ({survey.layout.name})", _state(problems), problems, commands)
    merge, broken = _merged(path)
    compared = _compared(survey)
    if of_experts := set(bad) & {key for keys in survey.groups.values() for key in keys.values()}:
        merge = compared = "refuses it: NaN or infinity"
        broken = (*broken, *_told_of(sorted(of_experts)))
    else:
        doubts += not_finite
    doubts += _all_zeros(survey, zeros)
    regmean, doubt = _regmean(opened)
    others += doubt
    told = (("merge", merge), ("distance", compared), ("merge -m regmean", regmean))
    kind = f"a checkpoint ({survey.layout.name}, {survey.architecture})"
    problems = (*doubts, *broken, *others)  # that it is a part explains what is missing in it
    return Finding(path, kind, "broken" if broken else _state(problems), problems, told)


def _compared(survey: Survey) -> str:
    """What ``distance`` would do: layers that are merged already have nothing to compare."""
    apart = [its for its in survey.experts.values() if len(its) > 1]
    names = [name for name in survey.layout.experts if any(name in its for its in apart)]
    return f"compares {', '.join(names)} in {len(apart)} layers"


def _merged(path: str) -> tuple[str, tuple[str, ...]]:
    """What the plain merge would do, and what keeps it from that."""
    try:
        with prepared(Inputs(path), make("interpolation", {}), Request()) as ready:
            before, after = ready.num_parameters
            slots = len(ready.plan.merges)
            return f"{slots} slots into one transformer, {before:,} parameters to {after:,}", ()
    except VlmergeError as error:
        return "refuses it", (_told(error),)


def _regmean(opened: Checkpoint) -> tuple[str, list[str]]:
    """What RegMean finds beside a checkpoint, and what is doubtful about it."""
    path = sibling_grams(opened)
    if not path.exists():
        return f"needs {path.name}: vlmerge grams {opened.name} --data SOURCE", []
    with open_checkpoint(path) as grams:
        about = grams.about()
    if about.get("checkpoint") not in (None, opened.fingerprint()):
        return f"refuses {path.name}", [f"{path.name} was collected from another checkpoint: collect it again"]
    collected, trained = recorded(about), recorded(opened.about())
    if collected and trained and collected != trained:
        ours, theirs = ", ".join(trained), ", ".join(collected)
        doubt = f"{path.name} was collected on {theirs}, the checkpoint was trained on {ours}"
        return f"uses {path.name}", [doubt]
    return f"uses {path.name}", []


def _all_zeros(survey: Survey, zeros: set[str]) -> Iterator[str]:
    """Experts that were made and never filled: their SSD and TSSD to any other are 0, the best there is."""
    for expert in survey.layout.experts:
        keys = {its[expert] for its in survey.groups.values() if expert in its}
        if keys and keys <= zeros:
            yield f"expert {expert} is all zeros: it was never loaded"


def _looked_at(opened: Checkpoint) -> tuple[list[str], set[str]]:
    """Keys with NaN or infinity, in file order, and those all 0; memory does not grow with the checkpoint."""
    import numpy as np

    from vlmerge_cli.engine.arrays import is_finite

    found, zeros, buffer = [], set(opened.tensors), np.empty(PIECE_BYTES, np.uint8)
    for key, tensor in opened.tensors.items():
        for first in range(0, tensor.num_bytes, PIECE_BYTES) if is_float(tensor.dtype) else ():
            piece = buffer[: min(PIECE_BYTES, tensor.num_bytes - first)]
            opened.read_into(key, piece, first)
            if piece.any():
                zeros.discard(key)
            if not is_finite(piece, tensor.dtype):
                found.append(key)
                break
    opened.check_unchanged()
    return found, zeros


def _told_of(keys: Sequence[str]) -> tuple[str, ...]:
    """Tensors that are not finite, in a sentence."""
    more = f" and {len(keys) - 1} more tensors" if len(keys) > 1 else ""
    return (f"NaN or infinity in {keys[0]}{more}",) if keys else ()


def _doubts(opened: Checkpoint) -> Iterator[str]:
    """What a file or folder is that opens, and may still not be what its owner thinks."""
    if opened.folder is None and (part := door.part_of(opened.path)):
        yield f"{part} of a model alone: name the folder or its index for the whole"
    if opened.folder and (adapter := adapter_in(opened.folder)):
        yield f"{adapter} beside the weights belongs to an adapter (LoRA), which is not applied"


def _doubts_of(survey: Survey) -> Iterator[str]:
    prefix, count = survey.second_copy
    if count:
        yield f"a second copy of {count} tensors of experts lies under {prefix!r}, and is not merged"


def _grams(path: str, opened: Checkpoint, quick: bool) -> Finding:
    bad, _ = ([], set()) if quick else _looked_at(opened)
    problems = [*_told_of(bad), *_of_another(opened)]
    problems += [] if token_counts(opened) else ["the file does not say how many tokens are in its Grams"]
    commands = (("merge -m regmean", f"uses {len(opened.tensors)} Grams with their checkpoint"),)
    return Finding(path, "Gram matrices", "broken" if bad else _state(problems), tuple(problems), commands)


def _of_another(grams: Checkpoint) -> Iterator[str]:
    """Whether the checkpoint beside Grams is not the one that they were collected from."""
    stem = grams.path.with_name(grams.path.name.removesuffix(GRAMS))
    beside = next((p for p in (stem.with_name(f"{stem.name}.safetensors"), stem) if p.exists()), None)
    collected = grams.about().get("checkpoint")
    if beside is not None and collected is not None:
        with open_checkpoint(beside) as opened:
            if opened.fingerprint() != collected:
                yield f"they were collected from another checkpoint than {beside.name}: collect them again"


def _pickle(path: str, place: Path) -> Finding:
    from vlmerge_cli.checkpoint.legacy import open_legacy

    found = open_legacy(place)
    problem = f"a PyTorch file: run vlmerge convert {path} {place.with_suffix('.safetensors')}"
    return Finding(
        path, "a PyTorch file", "doubtful", (problem,), (("convert", f"writes {len(found.tensors)} tensors"),)
    )


def _run(path: str, place: Path) -> Finding:
    """A run's folder: its records can be read, its model opened, its states are whole."""
    problems: list[str] = []
    num_rows = 0
    for file in sorted(place.glob("*.jsonl")):
        try:
            num_rows += sum(1 for _ in records.read(file))
        except DataError as error:
            problems.append(_told(error))
    for state in sorted((place / "state").glob("step-*")):
        lacks = [name for name in ("position.json", ".metadata") if not (state / name).is_file()]
        if lacks:
            problems.append(
                f"state/{state.name} is torn: it has no {' and no '.join(lacks)}; --resume takes the one before"
            )
    if (place / door.SINGLE_NAME).exists():
        try:
            open_checkpoint(place / door.SINGLE_NAME).close()
        except CheckpointError as error:
            problems.insert(0, _told(error))
    commands = (("report", f"shows {num_rows} records"),) if num_rows else ()
    return Finding(path, "a run's folder", "broken" if problems else "whole", tuple(problems), commands)


def _data(path: str, place: Path) -> Finding | None:
    """A data set, where some reader knows it: how many samples each split has, and what is wrong with others."""
    known = [name for name in READERS if place.exists() and reader(name).recognises(place)]
    if not known:
        return None
    problems: list[str] = []
    commands = []
    num_samples = 0
    kind = reader(known[0]).kind
    for split in ("train", "val", "test"):
        bad = BadSamples(1.0)
        try:
            found = open_reader(place, kind, split, bad, num_answers=MOST_ANSWERS)
        except DataError as error:
            commands.append((split, f"none: {error.what}"))
            problems += [] if NO_SPLIT.search(error.what) else [f"{split}: {_told(error)}"]
            continue
        num_samples += len(found)
        commands.append((split, f"{len(found)} samples"))
        problems += [f"{split}: {bad.report()}"] if bad.num_bad else []
    state: State = "whole" if not problems else "doubtful" if num_samples else "broken"
    return Finding(path, f"a data set of {kind} ({known[0]})", state, tuple(problems), tuple(commands))


def _state(doubts: object) -> State:
    return "doubtful" if doubts else "whole"


def _told(error: VlmergeError) -> str:
    """An error as one line."""
    text = error.what if not error.fix else f"{error.what} ({error.fix})"
    return " ".join(text.split())
