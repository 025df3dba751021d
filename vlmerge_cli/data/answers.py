"""VQA answers: normalising them as the official evaluation does, the vocabulary, and soft targets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.errors import DataError

MIN_COUNT = 9  # of an answer that gets a label: 3,129 of them on VQAv2's train and val
SOFT_TARGET = (0.0, 0.3, 0.6, 0.9, 1.0)  # for 0, 1, 2, 3, 4 or more of the ten annotators

ARTICLES = frozenset(("a", "an", "the"))
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# A word without one of these apostrophes gets it back. Forms that are other words without it ("well", "its")
# are not here.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
    when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = tuple(_CONTRACTIONS.split())


def _restored() -> dict[str, str]:
    """Each contraction with one apostrophe left out, and what it stands for."""
    table: dict[str, str] = {}
    for whole in CONTRACTIONS:
        for place in (match.start() for match in re.finditer("'", whole)):
            table.setdefault(whole[:place] + whole[place + 1 :], whole)
    return table


_RESTORED = _restored()
_COMMA_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normalise(answer: str) -> str:
    """Lower case, no articles, number words as digits, punctuation dropped or made a space, apostrophes
    restored.

    A mark is dropped where it touches a space (or the answer has a number such as 1,000) and becomes a space
    elsewhere; a full stop is dropped unless a digit follows.

    >>> normalise("The Two cats."), normalise("dont know"), normalise("black/white")
    ('2 cats', "don't know", 'black white')
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    number = _COMMA_NUMBER.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        loose = number or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if loose else " ")
    words = (DIGITS.get(word, word) for word in _PERIOD.sub("", cleaned).lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in ARTICLES)


@dataclass(frozen=True)
class AnswerVocabulary:
    """The answers that have a label, by label."""

    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def number(self) -> Mapping[str, int]:
        return {answer: label for label, answer in enumerate(self.labels)}

    def scores(self, answers: Iterable[str]) -> dict[int, float]:
        """Label to soft target for the *raw* answers of the annotators that are in the vocabulary."""
        counts = Counter(self.number[answer] for answer in answers if answer in self.number)
        return {label: SOFT_TARGET[min(count, 4)] for label, count in counts.items()}

    def target(self, answers: Iterable[str]) -> NDArray[np.float32]:
        """The soft targets of all labels, (num_labels,)."""
        result = np.zeros(len(self), np.float32)
        for label, score in self.scores(answers).items():
            result[label] = score
        return result


def vocabulary(majority: Sequence[str], num_answers: int | None = None, min_count: int = MIN_COUNT) -> AnswerVocabulary:
    """From the majority answers of all questions, in order: normalised, and kept if they occur ``min_count``
    times.

    With ``num_answers`` the most frequent that many are kept instead (ties: the earlier). Labels number the
    answers by first occurrence. Raises DataError if none is left.
    """
    counts = Counter(normalise(answer) for answer in majority)  # keeps the order of first occurrence
    counts.pop("", None)
    if num_answers is None:
        kept = {answer for answer, count in counts.items() if count >= min_count}
    else:
        kept = {answer for answer, _ in sorted(counts.items(), key=lambda item: -item[1])[:num_answers]}
    if not kept:
        raise DataError(f"no answer occurs {min_count} times among {len(majority)} questions", fix="use --answers N")
    return AnswerVocabulary(tuple(answer for answer in counts if answer in kept))
