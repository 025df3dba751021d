"""One ``--data``: what a source is called, where it is, how much of the mixture it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmerge_cli.errors import UsageError

#: The data set that needs no files, and its variants (data/shapes/scenes.py).
BUILT_IN = ("shapes", "digits")


@dataclass(frozen=True)
class Spec:
    """``[name=]path[:weight]``; a path of ``shapes`` or ``digits`` is the built-in data set."""

    name: str
    path: str
    weight: float | None = None

    @property
    def is_built_in(self) -> bool:
        """Whether it is the data set that needs no files; a folder of that name goes first."""
        return self.path in BUILT_IN and not Path(self.path).exists()

    def __str__(self) -> str:
        named = self.path if self.name == Path(self.path).name else f"{self.name}={self.path}"
        return named + ("" if self.weight is None else f":{self.weight:g}")


def parse(text: str) -> Spec:
    """
    >>> parse("coco=/data/coco:0.4")
    Spec(name='coco', path='/data/coco', weight=0.4)
    >>> parse("shapes")
    Spec(name='shapes', path='shapes', weight=None)
    """
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    path, colon, last = rest.rpartition(":")
    weight: float | None = None
    if colon:
        try:
            weight = float(last)
        except ValueError:
            path = rest  # a colon in the path
    else:
        path = rest
    if not path:
        raise UsageError(f"no path in --data {text!r}", fix="NAME=PATH:WEIGHT, PATH, shapes or digits")
    if weight is not None and not 0 < weight < float("inf"):
        raise UsageError(
            f"the weight in --data {text!r} is not above 0", fix="NAME=PATH:WEIGHT, e.g. coco=/data/coco:0.4"
        )
    return Spec(name or Path(path).name, path, weight)


def is_built_in(data: Sequence[str]) -> bool:
    """Whether all of it needs no files."""
    return all(parse(text).is_built_in for text in data)
