"""What a collection of Grams wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmerge_cli.result_base import Result


@dataclass(frozen=True)
class Collected(Result):
    """``tokens``: the key of each Gram -> how many tokens are in it; ``about``: all that the file says of itself."""

    output: str
    tokens: dict[str, int]
    about: dict[str, Any]

    @classmethod
    def of(cls, path: Path, about: Mapping[str, Any]) -> Collected:
        return cls(str(path), dict(about["tokens"]), dict(about))

    def to_dict(self) -> dict[str, Any]:
        return {"output": self.output, **self.about}
