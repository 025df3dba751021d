"""What a study is made of: a node does one thing to checkpoints of other nodes and leaves records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vlmerge_cli.records import Record
from vlmerge_cli.study.settings import StudySettings


@dataclass(frozen=True)
class Model:
    """One pre-trained model of the grid; ``k_seed`` is the share of the steps that its seed phase takes."""

    seed: int
    width: int
    arch: str
    k_seed: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.family}/{self.arch}"

    @property
    def family(self) -> str:
        """Of all that start from the same seed phase."""
        return f"seed{self.seed}/width{self.width}/kseed{100 * self.k_seed:g}"

    def at(self) -> dict[str, Any]:
        """Its identity in records."""
        return {"seed": self.seed, "width": self.width, "arch": self.arch, "k_seed": float(self.k_seed)}


@dataclass(frozen=True)
class Place:
    """Where a node works: its own folder among those of all nodes."""

    root: Path
    name: str
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def of(self, name: str) -> Place:
        """Another node's."""
        return replace(self, name=name)

    @property
    def checkpoint(self) -> Path:
        """What a node that makes a checkpoint leaves."""
        return self.folder / "model"


class Work(Protocol):
    """What a node does; a frozen value, so that it can be handed to another process."""

    kind: ClassVar[str]

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        """Do it; what was begun by a run that was stopped is gone on with. Raises every error of what it calls."""
        ...


@dataclass(frozen=True)
class Node:
    """``needs`` are names of nodes that come first; ``parts`` of the paper that it serves."""

    name: str
    work: Work
    needs: tuple[str, ...] = ()
    parts: frozenset[str] = field(default_factory=frozenset)


def chosen(nodes: Sequence[Node], parts: Sequence[str]) -> list[Node]:
    """The nodes of some parts of the grid and all that they need, in order; no parts: all."""
    if not parts:
        return list(nodes)
    by_name: Mapping[str, Node] = {node.name: node for node in nodes}
    wanted: set[str] = set()
    waiting = [node.name for node in nodes if node.parts & set(parts)]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].needs
    return [node for node in nodes if node.name in wanted]
