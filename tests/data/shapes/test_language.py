from collections import Counter, defaultdict

import numpy as np
import pytest

from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.shapes.language import Noun, captions, exist, stand, vocabulary
from vlmerge_cli.data.shapes.questions import questions
from vlmerge_cli.data.shapes.scenes import Scene, Thing, scene
from vlmerge_cli.data.shapes.statements import stated
from vlmerge_cli.data.tokenizer import load

LONGEST_TEXT_TOKENS = 20


def thing(shape: str, colour: str, cell: int) -> Thing:
    return Thing(shape, colour, "small", "plain", cell, 0, 0, 0.1, 0)


@pytest.fixture(scope="module")
def two() -> Scene:
    return Scene(0, "train", 0, "dark", (thing("circle", "red", 0), thing("star", "blue", 3)))


def test_claims_by_hand(two):
    circle, star, object_ = Noun("circle"), Noun("star"), Noun()
    assert exist(circle, star)(two)
    assert not exist(circle, circle)(two)  # one circle cannot be two things
    assert exist(object_, object_)(two)
    assert stand(circle, "left of", star)(two)
    assert stand(circle, "above", star)(two)
    assert not stand(star, "left of", circle)(two)
    assert Noun(cell=3).among(two) == [two.things[1]]


def test_words_by_hand():
    rng = generator(0)
    assert Noun("star", "orange").words(rng) == "an orange star"
    assert Noun("8").words(rng) == "an 8"
    assert Noun("cross", "red", texture="plain").words(rng, "the") == "the red cross"
    assert Noun("cross", "red", texture="striped").words(rng, "", plural=True) == "striped red crosses"


@pytest.mark.parametrize("variant", ["shapes", "digits"])
def test_captions_are_true_different_and_mostly_of_their_image_alone(variant):
    scenes = [scene(0, "test", number, variant) for number in range(150)]
    alone = []
    for one in scenes:
        made = captions(one, one.draws("captions"))
        assert len({caption.text for caption in made}) == 5
        assert all(caption.holds(one) for caption in made)
        alone += [sum(caption.holds(other) for other in scenes) == 1 for caption in made]
    assert np.mean(alone) > 0.9


@pytest.mark.parametrize("variant", ["shapes", "digits"])
def test_questions_are_far_from_answered_by_themselves(variant):
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(1500):
        one = scene(0, "train", number, variant)
        for asked in questions(one, one.draws("questions"), 4, variant):
            by_text[asked.text][asked.truth] += 1
            by_type[asked.question_type][asked.truth] += 1
    hits = []
    for number in range(200):
        one = scene(0, "test", number, variant)
        for asked in questions(one, one.draws("questions"), 4, variant):
            known = by_text.get(asked.text) or by_type[asked.question_type]
            hits.append(known.most_common(1)[0][0] == asked.truth)
    assert 0.15 < np.mean(hits) < 0.4


def test_ten_people_answer_and_most_say_the_truth():
    noise = []
    for number in range(200):
        one = scene(0, "train", number)
        for asked in questions(one, one.draws("questions")):
            assert len(asked.answers) == 10
            assert Counter(asked.answers).most_common(1)[0][0] == asked.truth
            noise += [answer != asked.truth for answer in asked.answers]
    assert 0.01 < np.mean(noise) < 0.15


def test_the_truth_of_a_few_questions_by_hand(two):
    found = {}
    for number in range(400):
        found |= {asked.text: asked.truth for asked in questions(two, generator(number), 4)}
    assert found["what color is the circle"] == "red"
    assert found["what shape is the blue object"] == "star"
    assert found["where is the red object"] == "top left"
    assert found["how many things are there"] == "2"
    assert found["is the red circle left of the blue star"] == "yes"
    assert found["is the blue star above the red circle"] == "no"
    assert found["what is below the circle"] == "star"
    assert found["is there a red star"] == "no"


def test_statements_are_half_true_and_say_nothing_by_themselves():
    pool = [scene(0, "train", number) for number in range(60)]
    truths = []
    for number in range(100):
        made = stated(pool, generator(0, "statement", number))
        assert sum(truth for _, _, truth in made.pairs) == 2
        assert all(left != right for left, right, _ in made.pairs)
        truths.append(made.pairs[0][2])
    assert 30 < sum(truths) < 70


def test_every_word_is_in_the_vocabulary_and_every_text_fits():
    tokenizer = load("bundled", LONGEST_TEXT_TOKENS + 1)
    unknown = tokenizer.ids["[UNK]"]
    texts = set()
    for variant in ("shapes", "digits"):
        pool = [scene(0, "train", number, variant) for number in range(400)]
        for one in pool:
            texts |= {caption.text for caption in captions(one, one.draws("captions"))}
            texts |= {asked.text for asked in questions(one, one.draws("questions"), 4, variant)}
        texts |= {stated(pool, generator(0, number), variant).text for number in range(200)}
    used = set()
    for text in texts:
        ids = tokenizer.encode(text)
        assert unknown not in ids, text
        assert (ids != tokenizer.pad).sum() <= LONGEST_TEXT_TOKENS, text
        used |= set(ids.tolist())
    words = vocabulary()
    assert {words[number] for number in range(len(words)) if number not in used} <= {
        "[UNK]",
        "[MASK]",
        "plain",
    }
