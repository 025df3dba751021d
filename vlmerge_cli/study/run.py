"""Run the nodes of a study that are not done yet, side by side or one after the other, and put their records together.

RUN/study.yaml                     the settings
RUN/inputs.json                    digests of the data and checkpoints that they name
RUN/nodes/NAME/records.jsonl       of one node; it is done when this is there
RUN/nodes/NAME/model, log.txt      its checkpoint, what it said
RUN/records.jsonl                  all results in the order of the grid: the same however the study was interrupted
RUN/costs.jsonl                    how long each node took, and on what
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmerge_cli import console, ranks, records
from vlmerge_cli.data.source_spec import parse
from vlmerge_cli.errors import UsageError, VlmergeError
from vlmerge_cli.outputs import lock
from vlmerge_cli.outputs.whole import write_whole
from vlmerge_cli.records import Record
from vlmerge_cli.study.digests import of_checkpoint, of_data
from vlmerge_cli.study.machine import machine
from vlmerge_cli.study.nodes import Node, Place
from vlmerge_cli.study.settings import StudySettings
from vlmerge_cli.study.workers import Done, Pool

SETTINGS, RECORDS, COSTS, FAILURE = "study.yaml", "records.jsonl", "costs.jsonl", "failure.txt"
INPUTS = "inputs.json"


@dataclass(frozen=True)
class Study:
    """A study and its folder; ``nodes`` are all of the grid."""

    settings: StudySettings
    seeds: tuple[int, ...]
    nodes: Sequence[Node]
    folder: Path
    device: str = "cpu"

    def place(self, node: Node) -> Place:
        return Place(self.folder / "nodes", node.name, self.device)

    def is_done(self, node: Node) -> bool:
        return (self.place(node).folder / RECORDS).exists()

    def missing(self, wanted: Sequence[Node]) -> list[Node]:
        """Nodes of ``wanted`` that are not done, in their order."""
        return [node for node in wanted if not self.is_done(node)]


def run(study: Study, wanted: Sequence[Node], num_workers: int, seconds_of: Callable[[Node], float]) -> list[str]:
    """Do what is missing of ``wanted``; the names of the nodes that failed.

    A node that fails is reported, those that need it are left out, and the others go on. Raises UsageError for a
    folder that holds a study with other settings, or at which another process works.
    """
    with lock.alone(study.folder, shared=True):
        _keep_settings(study)
        waiting = study.missing(wanted)
        failed: dict[str, str] = {}
        total = round(sum(map(seconds_of, waiting)))
        try:
            with console.progress("study", max(total, 1), "s of work") as bar:
                for node, done in _results(study, waiting, num_workers):
                    bar(round(seconds_of(node)))
                    bar.note(_said(node, done, len(wanted) - len(study.missing(wanted)), len(wanted)))
                    _note(study, node, done, num_workers, failed)
                    assemble(study)
        finally:
            assemble(study)
    return list(failed)


def assemble(study: Study) -> None:
    """RUN/records.jsonl from the records of all nodes that are done, and the failures of the others."""
    if not ranks.is_main():
        return
    settings = study.settings.model_dump(mode="json")
    at = {"preset": settings.pop("preset")}
    lines = [Record("study", at, {"seeds": list(study.seeds), **settings}).to_json() + "\n"]
    for node in study.nodes:
        folder = study.place(node).folder
        if study.is_done(node):
            lines.append((folder / RECORDS).read_text(encoding="utf-8"))
        elif (folder / FAILURE).exists():
            error = (folder / FAILURE).read_text(encoding="utf-8")
            lines.append(Record("failure", {"node": node.name}, {"error": error}).to_json() + "\n")
    write_whole(study.folder / RECORDS, "".join(lines).encode())


def do(node: Node, place: Place, settings: StudySettings) -> None:
    """One node, in this process; its records are written last and whole."""
    place.folder.mkdir(parents=True, exist_ok=True)
    made = node.work.run(place, settings)
    if ranks.is_main():
        write_whole(place.folder / RECORDS, "".join(record.to_json() + "\n" for record in made).encode())
    ranks.barrier()


def _results(study: Study, waiting: Sequence[Node], num_workers: int) -> Iterator[tuple[Node, Done]]:
    if ranks.world_size() == 1:
        with Pool(num_workers, do, study.settings) as pool:
            yield from pool.run(waiting, study.place)
    else:
        yield from _in_step(study, waiting)


def _in_step(study: Study, waiting: Sequence[Node]) -> Iterator[tuple[Node, Done]]:
    """All ranks work on one node after the other; an error that they do not share ends the run."""
    failed: set[str] = set()
    for node in waiting:
        if failed & set(node.needs):
            failed.add(node.name)
            continue
        started = time.perf_counter()
        error = ""
        try:
            do(node, study.place(node), study.settings)
        except VlmergeError as problem:
            if not problem.everywhere:
                raise
            error = str(problem)
            failed.add(node.name)
        yield node, Done(time.perf_counter() - started, error)


def _said(node: Node, done: Done, number: int, total: int) -> str:
    first = done.error.partition("\n")[0]
    return f"{number}/{total} {node.name}: " + (f"failed: {first}" if first else f"{done.seconds:.1f} s")


def _note(study: Study, node: Node, done: Done, num_workers: int, failed: dict[str, str]) -> None:
    """Keep what a node cost, or why it failed."""
    if done.error:
        failed[node.name] = done.error
    if not ranks.is_main():
        return
    failure = study.place(node).folder / FAILURE
    if done.error:
        write_whole(failure, done.error.encode())
        return
    failure.unlink(missing_ok=True)
    at = {"node": node.name, "kind": node.work.kind, "workers": num_workers, **machine(study.device)}
    records.append(study.folder / COSTS, Record("cost", at, {"seconds": round(done.seconds, 3)}))


def _keep_settings(study: Study) -> None:
    """One folder, one study: other settings, or other contents of what they name, need another folder."""
    problem = None
    if ranks.is_main():
        settings, digests = study.settings.to_yaml(), _digests(study.settings)
        problem = _other_study(study.folder, settings, digests)
        for name, text in ((SETTINGS, settings), (INPUTS, json.dumps(digests, indent=1) + "\n")):
            if problem is None and not (study.folder / name).exists():
                write_whole(study.folder / name, text.encode())
    problem = ranks.gather_objects(problem)[0]
    if problem is not None:
        raise problem


def _other_study(folder: Path, settings: str, digests: Mapping[str, str]) -> UsageError | None:
    """Why a folder, where it holds a study already, cannot hold this one."""
    kept, inputs = folder / SETTINGS, folder / INPUTS
    if kept.exists() and kept.read_text(encoding="utf-8") != settings:
        fix = f"{kept} holds them; name another --out, or give the same settings"
        return UsageError(f"{folder} holds a study with other settings", fix=fix)
    before = json.loads(inputs.read_text(encoding="utf-8")) if inputs.exists() else digests
    if before == digests:
        return None
    changed = ", ".join(name for name in digests if digests[name] != before.get(name))
    fix = f"{inputs} holds them; name another --out, or give the same inputs"
    return UsageError(f"{changed} changed since the study in {folder} was begun", fix=fix)


def _digests(settings: StudySettings) -> dict[str, str]:
    """Data and starting checkpoint of a study as they are named, each with the digest of what it holds."""
    data = {*settings.data, *(text for own in settings.task_data.values() for text in own)}
    found = {text: of_data([text]) for text in sorted(data) if not parse(text).is_built_in}
    start = settings.pretrain.get("init")
    return found if start is None else {**found, str(start): of_checkpoint(str(start))}
