"""VQAv2's question and annotation files with the images of COCO."""

from __future__ import annotations

from pathlib import Path
from sys import intern
from typing import Any, ClassVar

from vlmerge_cli.data.answers import AnswerVocabulary, vocabulary
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.images import Check, broken
from vlmerge_cli.data.readers.files import chosen, field, find, first_with, read_json, rows, texts, whole_number
from vlmerge_cli.data.samples import FileImage, Kind, Question
from vlmerge_cli.errors import DataError

SUBSETS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
HELD_OUT_IMAGES = 1000
KARPATHY = "dataset_coco.json"


class VqaV2:
    """Questions of one split, and the answer vocabulary of train and val.

    As published, train is train2014 and val2014 without the 1,000 images of the highest ids, and val is
    those; a val2014 of no more than ``held_out_images`` is all of val. With ``vqa_split`` "karpathy" (the
    paper's appendix A) train and val are the questions about the images of those splits of Karpathy's
    ``dataset_coco.json``, with ``restval`` also those in train. Training questions none of whose answers has a
    label are dropped (``num_dropped``); elsewhere they stay, as the official score counts them.
    ``answers`` is a vocabulary to use; else it is built from the majority answers, all that occur 9 times, or the
    ``num_answers`` most frequent.
    """

    kind: ClassVar[Kind] = "questions"

    def __init__(
        self, path: Path, split: str, bad: BadSamples, *, check: Check = "exists",
        answers: AnswerVocabulary | None = None, num_answers: int | None = None,
        held_out_images: int = HELD_OUT_IMAGES, vqa_split: str = "published", restval: bool = False,
    ) -> None:  # fmt: skip
        subset = chosen(SUBSETS, split, path)
        self.num_dropped = 0
        needed = {subset} if subset.startswith("test") else {"train2014", "val2014"}
        loaded = {name: _load(path, name, bad if name in needed else BadSamples(1.0)) for name in needed}
        if answers is None and subset.startswith("test"):
            loaded |= {name: _load(path, name, BadSamples(1.0)) for name in ("train2014", "val2014")}
        self.vocabulary = answers or _vocabulary(loaded, num_answers, path)
        if vqa_split == "karpathy" and not subset.startswith("test"):
            questions = _karpathy_split(loaded, split, restval, path)
        else:
            questions = _published_split(loaded, subset, held_out_images)
        unusable = broken((question.image.path for question in questions), check, bad)  # type: ignore[attr-defined]
        self.questions = []
        for question in questions:
            if str(question.image) in unusable:
                continue
            if split == "train" and not self.vocabulary.scores(question.answers):
                self.num_dropped += 1
                continue
            self.questions.append(question)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return find(path, "*OpenEnded*_questions.json") is not None

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Question:
        return self.questions[index]


def _load(root: Path, subset: str, bad: BadSamples) -> tuple[list[Question], list[str]]:
    """All questions of one file with their annotations, and the majority answers in the file's order."""
    file = find(root, f"*OpenEnded*_{subset}_questions.json")
    notes = find(root, f"*_{subset}_annotations.json")
    if file is None:
        if subset in ("train2014", "val2014"):
            return [], []
        raise DataError(
            f"no questions of {subset}", where=str(root), fix=f"v2_OpenEnded_mscoco_{subset}_questions.json"
        )
    asked = {
        whole_number(row, "question_id", place, file): (
            whole_number(row, "image_id", place, file),
            str(field(row, "question", place, file)),
        )
        for place, row in enumerate(rows(read_json(file), "questions", file))
    }
    annotated: dict[int, dict[str, Any]] = {}
    majority = []
    if notes is not None:
        for place, row in enumerate(rows(read_json(notes), "annotations", notes)):
            number = whole_number(row, "question_id", place, notes)
            annotated[number] = row
            majority.append(str(row.get("multiple_choice_answer", "")))
            if number not in asked:
                bad.add("annotation without a question", f"{notes.name} question {number}")
    folder = "test2015" if subset.startswith("test") else subset
    base = first_with([root, root / "coco", root / "images", root.parent, root.parent / "coco"], folder)
    questions = []
    for number, (image_id, question) in asked.items():
        note = annotated.get(number)
        if note is None and notes is not None:
            bad.add("question without an annotation", f"{file.name} question {number}")
            continue
        answers = texts((note or {}).get("answers"))
        if None in answers:
            bad.add("answer without a text", f"{notes.name if notes else file.name} question {number}")
            continue
        said = tuple(intern(answer) for answer in answers if answer is not None)
        image = f"{base}/{folder}/COCO_{folder}_{image_id:012d}.jpg"
        kinds = (intern(str((note or {}).get(name, ""))) for name in ("question_type", "answer_type"))
        questions.append(Question(str(number), FileImage(image), question, said, number, *kinds))
    return questions, majority


def _vocabulary(
    loaded: dict[str, tuple[list[Question], list[str]]], num_answers: int | None, path: Path
) -> AnswerVocabulary:
    majority = [answer for name in ("train2014", "val2014") if name in loaded for answer in loaded[name][1]]
    if not majority:
        fix = "put the annotations of train2014 and val2014 beside the questions, or use a checkpoint's"
        raise DataError("no annotations to take the answers from", where=str(path), fix=fix)
    return vocabulary(majority, num_answers)


def _published_split(loaded: dict[str, tuple[list[Question], list[str]]], subset: str, held_out: int) -> list[Question]:
    if subset.startswith("test"):
        return loaded[subset][0]
    train, val = loaded["train2014"][0], loaded["val2014"][0]
    images = sorted({str(question.image) for question in val})  # ids are zero-padded: their order is the names'
    if held_out == 0 or len(images) <= held_out:
        return train if subset == "train2014" else val
    kept = set(images[-held_out:])
    if subset == "val2014":
        return [question for question in val if str(question.image) in kept]
    return train + [question for question in val if str(question.image) not in kept]


def _karpathy_split(
    loaded: dict[str, tuple[list[Question], list[str]]], split: str, restval: bool, root: Path
) -> list[Question]:
    """The questions about images of one of Karpathy's splits of COCO, train2014 first. Raises DataError."""
    places = [root, root / "coco", root.parent, root.parent / "coco"]
    file = next((place / KARPATHY for place in places if (place / KARPATHY).is_file()), None)
    if file is None:
        raise DataError(f"no {KARPATHY}, which says what is of which split", where=str(root), fix="put it there")
    wanted = {split, "restval"} if restval and split == "train" else {split}
    entries = rows(read_json(file), "images", file)
    names = {row.get("filename") for row in entries if isinstance(row, dict) and row.get("split") in wanted}
    asked = [*loaded["train2014"][0], *loaded["val2014"][0]]
    found = [question for question in asked if Path(str(question.image)).name in names]
    if not found:
        raise DataError(f"no question about an image of Karpathy's split '{split}'", where=str(file))
    return found
