"""Work for the pool's tests, in a module of its own so that other processes can import it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from vlmerge_cli.errors import DataError
from vlmerge_cli.records import Record
from vlmerge_cli.study.nodes import Node, Place
from vlmerge_cli.study.settings import StudySettings


@dataclass(frozen=True)
class Says:
    """Leaves one record, or comes to an end in one of three ways."""

    kind: ClassVar[str] = "test"
    ending: str = ""

    def run(self, place: Place, settings: StudySettings) -> list[Record]:
        print("hello from", place.name)
        if self.ending == "error":
            raise DataError("no such data", where="nowhere", fix="look elsewhere")
        if self.ending == "mistake":
            raise RuntimeError("a mistake")
        if self.ending == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return [Record("test", {"node": place.name}, {"steps": settings.steps})]


def do(node: Node, place: Place, settings: StudySettings) -> None:
    node.work.run(place, settings)
