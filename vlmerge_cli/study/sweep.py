"""A scored sweep: the merges of one checkpoint over a grid of options, one record each, resumable by record."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmerge_cli import console, records
from vlmerge_cli.errors import UsageError
from vlmerge_cli.merging import many, merge
from vlmerge_cli.merging.opening import Prepared, completed, several
from vlmerge_cli.outputs import lock
from vlmerge_cli.records import Record
from vlmerge_cli.study.merged import Merging

FILE_NAME = "sweep.jsonl"
AT_ONCE = 8  # merged checkpoints that are on disk together
MOST_POINTS = 10_000


def values_of(text: str, flag: str) -> list[float]:
    """``0:1:0.25`` (both ends included), ``0.1,0.5`` or one number. Raises UsageError.

    >>> values_of("0:1:0.25", "--alpha")
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    fix = f"write {flag} 0:1:0.25, {flag} 0.1,0.5 or {flag} 0.5"
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"{flag} {text}", fix=fix) from None
    if not (step > 0 and last >= first and (last - first) / step < MOST_POINTS):
        raise UsageError(f"{flag} {text} is no range", fix=fix)
    count = int((last - first) / step + 1e-9) + 1
    return [round(first + number * step, 12) for number in range(count)]


def grid(options: Mapping[str, Any], flags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every combination of the values of the options that were given; texts are ranges."""
    given = {name: value for name, value in options.items() if value is not None}
    lists = [
        values_of(value, flags.get(name, name)) if isinstance(value, str) else [value] for name, value in given.items()
    ]
    return [dict(zip(given, point, strict=True)) for point in itertools.product(*lists)]


@dataclass(frozen=True)
class Scored:
    """How a point is scored: ``about`` identifies it in the records, ``main`` decides which is best."""

    about: Mapping[str, Any]
    main: str
    score: Callable[[str], Mapping[str, float]]  # of a checkpoint's path


def run(merging: Merging, points: Sequence[Mapping[str, Any]], how: Scored, folder: Path) -> list[Record]:
    """The records of all points in order, after that of the checkpoint as it is where it can be scored.

    What ``folder``/sweep.jsonl already has of the same checkpoint, base, Grams, settings and scoring, all of them by
    content, is not done again. A merged checkpoint is on disk only until it is scored. All merges are planned before
    the first is made.
    """
    with lock.alone(folder):
        return _run(merging, points, how, folder)


def _run(merging: Merging, points: Sequence[Mapping[str, Any]], how: Scored, folder: Path) -> list[Record]:
    file = folder / FILE_NAME
    made = [replace(merging, options=point) for point in points]
    with several(merging.inputs, [one.made() for one in made], merging.request) as ready:
        ready = completed(ready, "cpu")  # Grams that are not there yet: no record can be of them
        common = {**how.about, "checkpoint": ready[0].checkpoint.fingerprint(), "inputs": _inputs(ready[0])}
        wanted = [_at(common, None), *(_at(common, one) for one in made)]
        done = {_key(record.at) for record in records.read(file, "sweep")}
        if _key(wanted[0]) not in done:
            records.append(file, Record("sweep", wanted[0], dict(how.score(merging.checkpoint))))
        missing = [place for place, at in enumerate(wanted[1:]) if _key(at) not in done]
        if missing:
            _merge_and_score([(wanted[1 + place], ready[place]) for place in missing], how, folder)
    found = {_key(record.at): record for record in records.read(file, "sweep")}
    return [found[_key(at)] for at in wanted]


def _merge_and_score(missing: Sequence[tuple[dict[str, Any], Prepared]], how: Scored, folder: Path) -> None:
    """A few merges at a time, each removed when its record is written."""
    work = folder / ".merged"
    try:
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            shutil.rmtree(work, ignore_errors=True)
            paths = many.run([one for _, one in part], work, merge.Settings(device="cpu"))
            for (at, _), path in zip(part, paths, strict=True):
                record = Record("sweep", at, dict(how.score(str(path))))
                records.append(folder / FILE_NAME, record)
                console.say(f"{describe(at)}: {how.main.replace('_', ' ')} {record.values[how.main]:.2f}")
                shutil.rmtree(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def best(found: Sequence[Record], main: str) -> Record:
    """The merge with the highest score; of equal ones the first."""
    return max((record for record in found if record.at["merge"] is not None), key=lambda r: float(r.values[main]))


def describe(at: Mapping[str, Any]) -> str:
    """A point in words."""
    if at["merge"] is None:
        return "as it is"
    settings = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in at["merge"]["settings"].items())  # fmt: skip
    return f"{at['merge']['method']} {settings}"


def _at(common: Mapping[str, Any], merging: Merging | None) -> dict[str, Any]:
    return {**common, "merge": None if merging is None else merging.described()}


def _inputs(ready: Prepared) -> dict[str, str]:
    """Digests of what is merged with beside the checkpoint."""
    found = {"base": ready.base, "grams": ready.grams}
    return {name: source.fingerprint() for name, source in found.items() if source is not None}


def _key(at: Mapping[str, Any]) -> str:
    """What a record stands for: everything but the names of what has a digest."""
    merge = at.get("merge")
    if merge is not None:
        merge = {name: value for name, value in merge.items() if name not in ("base", "grams")}
    return Record("", {**at, "merge": merge, "data": None}).to_json()
