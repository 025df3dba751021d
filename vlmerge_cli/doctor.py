"""What a path is, whether it is whole and fits together, and what commands would do with it; nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmerge_cli import console, records
from vlmerge_cli.checkpoint import door
from vlmerge_cli.checkpoint.reader import Checkpoint, open_checkpoint
from vlmerge_cli.checkpoint.small_files import adapter_in
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import READERS, open_reader, reader
from vlmerge_cli.errors import CheckpointError, DataError, LayoutError, VlmergeError
from vlmerge_cli.grams.gram_file import SUFFIX, sibling_grams, token_counts
from vlmerge_cli.layouts.survey import Survey, detect
from vlmerge_cli.merging.opening import Inputs, prepared
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods.method import make
from vlmerge_cli.results import Result

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


def examined(path: str) -> Finding:
    """Look at a checkpoint, a Gram file, a run folder or a data set; what is wrong is found, never raised."""
    with console.muted():
        try:
            return _examined(path)
        except VlmergeError as error:
            return Finding(path, "nothing that can be used", "broken", (_told(error),))
        except OSError as error:
            return Finding(path, "nothing that can be read", "broken", (error.strerror or str(error),))


def _examined(path: str) -> Finding:
    place = Path(path)
    if place.is_dir() and any((place / name).is_file() for name in RUN_SETTINGS):
        return _run(path, place)
    if place.suffix in door.PICKLES and place.is_file():
        return _pickle(path, place)
    if found := _data(path, place):
        return found
    with open_checkpoint(path) as opened:
        return _grams(path, opened) if opened.path.name.endswith(SUFFIX) else _checkpoint(path, opened)


def _checkpoint(path: str, opened: Checkpoint) -> Finding:
    doubts = list(_doubts(opened))
    try:
        opened.config()
        survey, _ = detect(opened.tensors, opened.name)
    except LayoutError as error:
        return Finding(path, "a checkpoint of no known layout", "doubtful", (_told(error), *doubts))
    except CheckpointError as error:
        return Finding(path, "a checkpoint", "broken", (_told(error), *doubts))
    others = list(_doubts_of(survey))
    if not survey.groups:
        commands = (("merge", "refuses it: it is merged already"), ("evaluate", "scores it"))
        doubts += others
        return Finding(path, f"a merged checkpoint ({survey.layout.name})", _state(doubts), tuple(doubts), commands)
    merge, broken = _merged(path)
    compared = f"compares {', '.join(survey.layout.experts)} in {len(survey.layers)} layers"
    told = (("merge", merge), ("distance", compared), ("merge -m regmean", _regmean(opened)))
    kind = f"a checkpoint ({survey.layout.name}, {survey.architecture})"
    problems = (*doubts, *broken, *others)  # that it is a part explains what is missing in it
    return Finding(path, kind, "broken" if broken else _state(problems), problems, told)


def _merged(path: str) -> tuple[str, tuple[str, ...]]:
    """What the plain merge would do, and what keeps it from that."""
    try:
        with prepared(Inputs(path), make("interpolation", {}), Request()) as ready:
            before, after = ready.num_parameters
            slots = len(ready.plan.merges)
            return f"{slots} slots into one transformer, {before:,} parameters to {after:,}", ()
    except VlmergeError as error:
        return "refuses it", (_told(error),)


def _regmean(opened: Checkpoint) -> str:
    """What RegMean finds beside a checkpoint."""
    path = sibling_grams(opened)
    if not path.exists():
        return f"needs {path.name}: vlmerge grams {opened.name} --data SOURCE"
    with open_checkpoint(path) as grams:
        if grams.about().get("checkpoint") not in (None, opened.fingerprint()):
            return f"refuses {path.name}, which belongs to another checkpoint"
    return f"uses {path.name}"


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


def _grams(path: str, opened: Checkpoint) -> Finding:
    counts = token_counts(opened)
    problems = () if counts else ("the file does not say how many tokens are in its Grams",)
    commands = (("merge -m regmean", f"uses {len(opened.tensors)} Grams with their checkpoint"),)
    return Finding(path, "Gram matrices", _state(problems), problems, commands)


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
