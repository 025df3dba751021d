"""Questions about a scene, each with the answers of ten annotators who agree but for a little noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vlmerge_cli.data.shapes.language import (
    NUMBERS,
    PLACE_WORDS,
    RELATIONS,
    SAME,
    Noun,
    relations_of,
    say,
    stand,
)
from vlmerge_cli.data.shapes.scenes import (
    COLOURS,
    PLACES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    Variant,
    shape_names,
)

NUM_ANNOTATORS = 10
SLIP, OTHER_WORD = 0.04, 0.08  # how often an annotator errs, or uses another word for the same


@dataclass(frozen=True)
class Asked:
    """A question, its one true answer, what ten people said, and VQAv2's two types."""

    text: str
    truth: str
    answers: tuple[str, ...]
    question_type: str
    answer_type: str


def questions(scene: Scene, rng: np.random.Generator, num: int = 4, variant: Variant = "shapes") -> list[Asked]:
    """``num`` different questions, their kinds drawn at random."""
    made: dict[str, Asked] = {}
    while len(made) < num:
        kind = _KINDS[int(rng.choice(len(_KINDS), p=_CHANCES))]
        draft = kind(scene, rng, variant)
        if draft is not None and draft.text not in made:
            made[draft.text] = _answered(draft, rng)
    return list(made.values())


@dataclass(frozen=True)
class _Draft:
    text: str
    truth: str
    choices: tuple[str, ...]
    question_type: str
    answer_type: str = "other"


def _answered(draft: _Draft, rng: np.random.Generator) -> Asked:
    while True:
        said = tuple(_annotator(draft, rng) for _ in range(NUM_ANNOTATORS))
        (most, count), *rest = Counter(said).most_common(2)
        if most == draft.truth and (not rest or rest[0][1] < count):
            return Asked(draft.text, draft.truth, said, draft.question_type, draft.answer_type)


def _annotator(draft: _Draft, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < SLIP:
        return str(rng.choice(draft.choices))
    if draw < SLIP + OTHER_WORD:
        if draft.answer_type == "number":
            return NUMBERS[int(draft.truth)] if draft.truth != "0" else "zero"
        return say(draft.truth, rng) if draft.truth in SAME else draft.truth
    return draft.truth


def _unique(scene: Scene, rng: np.random.Generator, hidden: str = "") -> tuple[Thing, Noun] | None:
    """A thing and the shortest of a few descriptions that only it fits, without saying ``hidden``."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    said = {"shape": thing.shape, "colour": thing.colour, "size": thing.size, "texture": thing.texture}
    said.pop(hidden, None)
    if thing.texture == "plain":
        said.pop("texture", None)
    names = [str(name) for name in rng.permutation(sorted(said))]
    for used in range(1, len(names) + 1):
        noun = replace(Noun(), **{name: said[name] for name in names[:used]})  # type: ignore[arg-type]
        if len(noun.among(scene)) == 1:
            return thing, noun
    return None


def _colour(scene: Scene, rng: np.random.Generator, _: Variant) -> _Draft | None:
    found = _unique(scene, rng, "colour")
    if found is None:
        return None
    thing, noun = found
    return _Draft(f"what color is {noun.words(rng, 'the')}", thing.colour, COLOURS, "what color is the")


def _shape(scene: Scene, rng: np.random.Generator, variant: Variant) -> _Draft | None:
    found = _unique(scene, rng, "shape")
    if found is None:
        return None
    thing, noun = found
    return _Draft(f"what shape is {noun.words(rng, 'the')}", thing.shape, shape_names(variant), "what")


def _beside(scene: Scene, rng: np.random.Generator, variant: Variant) -> _Draft | None:
    found = _unique(scene, rng)
    if found is None:
        return None
    thing, noun = found
    relation = str(rng.choice(list(RELATIONS)))
    others = [other for other in scene.things if relation in relations_of(other, thing)]
    if len(others) != 1:
        return None
    text = f"what is {say(relation, rng)} {noun.words(rng, 'the')}"
    return _Draft(text, others[0].shape, shape_names(variant), "what is")


def _in_place(scene: Scene, rng: np.random.Generator, variant: Variant) -> _Draft:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    place = say(PLACES[thing.cell], rng)
    if rng.random() < 0.5:
        return _Draft(f"what is at {place}", thing.shape, shape_names(variant), "what is")
    return _Draft(f"what color is the object at {place}", thing.colour, COLOURS, "what color is the")


def _place(scene: Scene, rng: np.random.Generator, _: Variant) -> _Draft | None:
    found = _unique(scene, rng)
    if found is None:
        return None
    thing, noun = found
    return _Draft(f"where is {noun.words(rng, 'the')}", PLACE_WORDS[thing.cell], PLACE_WORDS, "where is the")


def _size(scene: Scene, rng: np.random.Generator, _: Variant) -> _Draft | None:
    found = _unique(scene, rng, "size")
    if found is None:
        return None
    thing, noun = found
    return _Draft(f"is {noun.words(rng, 'the')} small or large", thing.size, SIZES, "is the")


def _texture(scene: Scene, rng: np.random.Generator, _: Variant) -> _Draft | None:
    found = _unique(scene, rng, "texture")
    if found is None:
        return None
    thing, noun = found
    return _Draft(f"what texture is {noun.words(rng, 'the')}", thing.texture, TEXTURES, "what")


def _how_many(scene: Scene, rng: np.random.Generator, _: Variant) -> _Draft:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    nouns = (Noun(), Noun(colour=thing.colour), Noun(size=thing.size), Noun(texture=thing.texture))
    noun = nouns[int(rng.integers(len(nouns)))]
    if rng.random() < 0.25:
        noun = Noun(colour=str(rng.choice(COLOURS)))
    if noun.texture == "plain":
        noun = Noun(shape=thing.shape)
    text = f"how many {noun.words(rng, '', plural=True)} are there"
    return _Draft(text, str(len(noun.among(scene))), ("0", "1", "2", "3", "4"), "how many", "number")


def _is_there(scene: Scene, rng: np.random.Generator, variant: Variant) -> _Draft | None:
    """Yes and no equally often: a no changes one word of something that is there."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    noun = Noun(shape=thing.shape, colour=thing.colour)
    truth = bool(rng.random() < 0.5)
    if not truth:
        if rng.random() < 0.5:
            noun = Noun(shape=thing.shape, colour=str(rng.choice(COLOURS)))
        else:
            noun = Noun(shape=str(rng.choice(shape_names(variant))), colour=thing.colour)
    if bool(noun.among(scene)) != truth:
        return None
    return _Draft(f"is there {noun.words(rng)}", "yes" if truth else "no", ("yes", "no"), "is there a", "yes/no")


def _is_related(scene: Scene, rng: np.random.Generator, _: Variant) -> _Draft | None:
    """Yes and no equally often: a no turns the relation round."""
    if len(scene.things) < 2:
        return None
    one, two = (scene.things[index] for index in rng.permutation(len(scene.things))[:2])
    first, second = Noun(one.shape, one.colour), Noun(two.shape, two.colour)
    truth = bool(rng.random() < 0.5)
    relation = str(rng.choice(relations_of(one, two) if truth else relations_of(two, one)))
    if stand(first, relation, second)(scene) != truth:
        return None
    text = f"is {first.words(rng, 'the')} {say(relation, rng)} {second.words(rng, 'the')}"
    return _Draft(text, "yes" if truth else "no", ("yes", "no"), "is the", "yes/no")


_Kind = Callable[[Scene, np.random.Generator, Variant], _Draft | None]
_WEIGHTS: dict[_Kind, float] = {
    _colour: 4, _shape: 3, _beside: 2, _in_place: 3, _place: 3, _size: 0.7, _texture: 1, _how_many: 2,
    _is_there: 2, _is_related: 1.5,
}  # fmt: skip
_KINDS = list(_WEIGHTS)
_CHANCES = np.array(list(_WEIGHTS.values())) / sum(_WEIGHTS.values())
