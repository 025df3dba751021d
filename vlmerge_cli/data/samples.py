"""What every reader gives, whatever the format on disk: five kinds of sample, their images not yet read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from vlmerge_cli.data.bad import BadSample, BadSamples

Kind = Literal["pairs", "questions", "statements", "labels", "masks"]
KINDS: tuple[Kind, ...] = ("pairs", "questions", "statements", "labels", "masks")


class Image(Protocol):
    """Where the bytes of an encoded image are. ``read`` raises BadSample."""

    def read(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FileImage:
    """A file of its own."""

    path: str

    def read(self) -> bytes:
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise BadSample(f"missing image ({error.strerror})", self.path) from None

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Slice:
    """``size_bytes`` at ``offset_bytes`` of a larger file, e.g. a member of a tar shard."""

    path: str
    offset_bytes: int
    size_bytes: int

    def read(self) -> bytes:
        try:
            data = os.pread(_opened(self.path).fileno(), self.size_bytes, self.offset_bytes)
        except OSError as error:
            raise BadSample(f"unreadable shard ({error.strerror})", self.path) from None
        if len(data) < self.size_bytes:
            raise BadSample("truncated tar", f"{self.path} at byte {self.offset_bytes}")
        return data

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset_bytes}"


@lru_cache(maxsize=64)
def _opened(path: str) -> FileIO:
    return FileIO(path)


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and one of its captions; pairs with the same ``image_id`` show the same image."""

    key: str
    image: Image
    caption: str
    image_id: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image with what the annotators answered, as they wrote it (empty: not known)."""

    key: str
    image: Image
    question: str
    answers: tuple[str, ...]
    question_id: int
    question_type: str = ""
    answer_type: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence that is true or false of two images; ``group`` is shared by all pairs of one sentence."""

    key: str
    left: Image
    right: Image
    text: str
    label: bool
    group: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image of one class."""

    key: str
    image: Image
    label: int


@dataclass(frozen=True, slots=True)
class Masked:
    """An image and a picture of the same size whose grey values are labels: 0 unlabelled, then 1, 2, ..."""

    key: str
    image: Image
    mask: Image


Sample = Pair | Question | Statement | Labelled | Masked


@runtime_checkable
class Reader(Protocol):
    """One split of one data set. ``__getitem__`` reads no image and may raise BadSample.

    A reader's constructor takes ``(path, split, bad)`` and keyword options, and adds all that is wrong with
    the data set and can be known cheaply to ``bad``; whoever opened it calls ``bad.settle``.
    """

    kind: ClassVar[Kind]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` holds this format, decided by what lies there."""

    def __init__(self, path: Path, split: str, bad: BadSamples) -> None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
