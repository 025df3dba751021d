"""The Arrow files that the published code prepares: captions, VQA and NLVR2. Needs pyarrow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlmerge_cli.data.answers import SOFT_TARGET, AnswerVocabulary
from vlmerge_cli.data.bad import BadSample, BadSamples
from vlmerge_cli.data.samples import Kind, Pair, Question, Statement
from vlmerge_cli.errors import DataError

# What a split's files end in; a file that ends in nothing of the kind (vg.arrow, sbu_3.arrow) is for
# training.
ENDINGS = {
    "train": re.compile(r"(_train(_\d+)?|_trainable_val)$"),
    "val": re.compile(r"(?<!rest)(?<!trainable)(_val(_\d+)?|_dev)$|_rest_val$"),
    "test": re.compile(r"_test1?$"),
    "restval": re.compile(r"_restval$"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Encoded image bytes in one cell of a table."""

    path: str
    column: str
    row: int

    def read(self) -> bytes:
        data = _table(self.path)[self.column][self.row].as_py()
        if not data:
            raise BadSample("missing image", str(self))
        return bytes(data)

    def __str__(self) -> str:
        return f"{self.path} row {self.row}"


class ArrowCaptions:
    """Columns image, caption (list), image_id, split: one pair a caption, doubles of an image left out."""

    kind: ClassVar[Kind] = "pairs"
    columns: ClassVar[set[str]] = {"image", "caption"}

    def __init__(self, path: Path, split: str, bad: BadSamples, *, restval: bool = False) -> None:
        self.pairs: list[tuple[Cell, str, str]] = []
        owner: list[int] = []
        number = 0
        for file in _files(path, self.columns, split, restval):
            table = _table(str(file))
            names = table["image_id"].to_pylist() if "image_id" in table.column_names else [""] * len(table)
            for row, (captions, name) in enumerate(zip(table["caption"].to_pylist(), names, strict=True)):
                texts = dict.fromkeys(text.strip() for text in captions or [])
                if not any(texts):
                    bad.add("empty caption", f"{file} row {row}")
                for text in filter(None, texts):
                    self.pairs.append((Cell(str(file), "image", row), text, str(name)))
                    owner.append(number)
                number += 1
        self.image_ids = np.array(owner, np.int64)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return bool(_with_columns(path, cls.columns))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        cell, text, name = self.pairs[index]
        return Pair(f"{name or cell.row}#{index}", cell, text, int(self.image_ids[index]))


class ArrowQuestions:
    """Columns image, questions, question_id, answers, answer_labels, answer_scores (lists): one row an image.

    The files hold labelled answers with soft scores, not what ten people said. ``answers`` of a sample
    repeats each as often as its score tells (.3, .6, .9, 1 for 1, 2, 3, 4 times), so that soft targets are
    exactly those of the file; the official accuracy cannot be had from it.
    """

    kind: ClassVar[Kind] = "questions"
    columns: ClassVar[set[str]] = {"image", "questions", "question_id"}

    def __init__(self, path: Path, split: str, bad: BadSamples, *, answers: AnswerVocabulary | None = None) -> None:
        self.questions = [one for file in _files(path, self.columns, split) for one in _questions(file, bad)]
        self.vocabulary = answers or _vocabulary(path, self.columns)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return bool(_with_columns(path, cls.columns))

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Question:
        return self.questions[index]


class ArrowStatements:
    """Columns image_0, image_1, questions, answers ("True"/"False"), identifier: one row a pair of images."""

    kind: ClassVar[Kind] = "statements"
    columns: ClassVar[set[str]] = {"image_0", "image_1", "questions", "answers"}

    def __init__(self, path: Path, split: str, bad: BadSamples) -> None:
        self.statements: list[Statement] = []
        for file in _files(path, self.columns, split):
            table = _table(str(file)).select(["questions", "answers", "identifier"])
            for row, cells in enumerate(table.to_pylist()):
                name = str(np.ravel(cells["identifier"])[0])
                left, right = Cell(str(file), "image_0", row), Cell(str(file), "image_1", row)
                if len(cells["questions"]) != len(cells["answers"]):
                    bad.add("row of unequal lists", f"{file} row {row}", len(cells["questions"]))
                    continue
                for order, (text, label) in enumerate(zip(cells["questions"], cells["answers"], strict=True)):
                    group = f"{name.rsplit('-', 1)[0]}-{order}"
                    truth = str(label) == "True"
                    self.statements.append(Statement(f"{name}-{order}", left, right, text, truth, group))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return bool(_with_columns(path, cls.columns))

    def __len__(self) -> int:
        return len(self.statements)

    def __getitem__(self, index: int) -> Statement:
        return self.statements[index]


def _questions(file: Path, bad: BadSamples) -> Iterator[Question]:
    table = _table(str(file))
    kept = [name for name in table.column_names if name != "image"]
    for row, cells in enumerate(table.select(kept).to_pylist()):
        texts, numbers = cells["questions"], cells["question_id"]
        answers = cells.get("answers") or [[]] * len(texts)
        scores = cells.get("answer_scores") or [[]] * len(texts)
        if not len(texts) == len(numbers) == len(answers) == len(scores):
            bad.add("row of unequal lists", f"{file} row {row}", len(texts))
            continue
        for text, number, said, worth in zip(texts, numbers, answers, scores, strict=True):
            times = (int(np.argmin([abs(score - level) for level in SOFT_TARGET])) for score in worth or [])
            repeated = tuple(answer for answer, count in zip(said or [], times, strict=False) for _ in range(count))
            yield Question(str(number), Cell(str(file), "image", row), text, repeated, int(number))


def _vocabulary(path: Path, columns: set[str]) -> AnswerVocabulary:
    """Label texts from all files together; a label that none of them has is left blank."""
    named: dict[int, str] = {}
    for file in _with_columns(path, columns | {"answers", "answer_labels"}):
        table = _table(str(file)).select(["answers", "answer_labels"])
        for cells in table.to_pylist():
            for said, labels in zip(cells["answers"] or [], cells["answer_labels"] or [], strict=True):
                named.update(zip(labels, said, strict=True))
    if not named:
        raise DataError("no labelled answers", where=str(path), fix="put the training file beside it")
    return AnswerVocabulary(tuple(named.get(label, f"[{label}]") for label in range(1 + max(named))))


def _files(path: Path, columns: set[str], split: str, restval: bool = False) -> list[Path]:
    """The files of a split. Raises DataError if there is none."""
    there = _with_columns(path, columns)
    if path.is_file():
        return there
    wanted = [ENDINGS[split]] if split in ENDINGS else []
    wanted += [ENDINGS["restval"]] if restval and split == "train" else []
    found = [file for file in there if any(pattern.search(file.stem) for pattern in wanted)]
    if split == "train":
        found += [file for file in there if not any(pattern.search(file.stem) for pattern in ENDINGS.values())]
    if not found:
        names = ", ".join(file.name for file in there)
        raise DataError(f"no file of split '{split}'", where=str(path), fix=f"there are: {names}")
    return sorted(found)


def _with_columns(path: Path, columns: set[str]) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.arrow")) if path.is_dir() else []
    return [file for file in files if file.suffix == ".arrow" and columns <= set(_table(str(file)).column_names)]


@lru_cache(maxsize=128)
def _table(path: str) -> Any:
    """The table of one file, mapped and not read. Raises DataError if it is not one."""
    try:
        import pyarrow
    except ImportError:
        raise DataError("Arrow files need pyarrow", where=path, fix="pip install 'vlmerge[arrow]'") from None
    try:
        return pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"not an Arrow file: {error}", where=path, fix="is the copy complete?") from None
