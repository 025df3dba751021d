import pytest

from vlmerge_cli.data.answers import AnswerVocabulary, normalise, vocabulary
from vlmerge_cli.errors import DataError


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Yes", "yes"),
        ("the dog", "dog"),
        ("An Apple", "apple"),
        ("two", "2"),
        ("none", "0"),
        ("ten cats", "10 cats"),
        ("dont", "don't"),
        ("shouldntve", "shouldntve"),  # two apostrophes are missing: the official table does not have it
        ("shouldnt've", "shouldn't've"),
        ("its", "its"),
        ("black/white", "black white"),
        ("black / white", "black  white".replace("  ", " ")),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("hello.", "hello"),
        ("3.", "3"),
        ("what?", "what"),
        ("a", ""),
        ("new\nline", "new line"),
    ],
)
def test_normalise_by_hand(raw, clean):
    assert normalise(raw) == clean


def test_labels_are_numbered_by_first_occurrence_and_need_nine():
    majority = ["red"] * 8 + ["Two"] * 5 + ["blue"] * 9 + ["2"] * 4 + ["the red"] * 1 + ["rare"] * 8
    assert vocabulary(majority).labels == ("red", "2", "blue")


def test_the_most_frequent_answers_with_ties_to_the_earlier():
    assert vocabulary(["c", "b", "b", "d", "e", "e"], num_answers=3).labels == ("c", "b", "e")


def test_no_answer_is_an_error():
    with pytest.raises(DataError, match="no answer occurs 9 times"):
        vocabulary(["once"])


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_targets(count, score):
    answers = AnswerVocabulary(("no", "yes"))
    target = answers.target(["yes"] * count + ["maybe"] * (10 - count))
    assert target.tolist() == pytest.approx([0.0, score])


def test_targets_count_raw_answers_only():
    answers = AnswerVocabulary(("2", "yes"))
    assert answers.scores(["two", "2", "Yes", "yes", "yes"]) == {0: 0.3, 1: 0.6}
