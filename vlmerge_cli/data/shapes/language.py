"""What can be said of a thing and of a scene: descriptions, captions, and whether they are true.

Every text is a string and a claim; a claim can be asked of any scene (``holds``), which is how questions get
their answers, statements their truth, and how well captions tell images apart is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from vlmerge_cli.data.shapes.scenes import COLOURS, DIGITS, GROUNDS, SHAPES, TEXTURES, Scene, Thing

SAME = {  # each word and what else says the same
    "small": ("small", "little"),
    "large": ("large", "big"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "ring": ("ring", "hoop"),
    "top left": ("top left", "upper left"),
    "top right": ("top right", "upper right"),
    "bottom left": ("bottom left", "lower left"),
    "bottom right": ("bottom right", "lower right"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "object": ("object", "thing"),
}
NUMBERS = ("no", "one", "two", "three", "four")
RELATIONS: dict[str, Callable[[Thing, Thing], bool]] = {
    "left of": lambda a, b: a.column < b.column,
    "right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}
PLACE_WORDS = ("top left", "top right", "bottom left", "bottom right")
Claim = Callable[[Scene], bool]


def say(word: str, rng: np.random.Generator) -> str:
    """The word, or at times another that means the same."""
    return str(rng.choice(SAME[word])) if word in SAME else word


@dataclass(frozen=True)
class Noun:
    """A description: what is empty is left open."""

    shape: str = ""
    colour: str = ""
    size: str = ""
    texture: str = ""
    cell: int | None = None

    def fits(self, thing: Thing) -> bool:
        wanted = ((self.shape, thing.shape), (self.colour, thing.colour), (self.size, thing.size))
        return (
            all(mine in ("", its) for mine, its in wanted)
            and self.texture in ("", thing.texture)
            and self.cell in (None, thing.cell)
        )

    def among(self, scene: Scene) -> list[Thing]:
        return [thing for thing in scene.things if self.fits(thing)]

    def words(self, rng: np.random.Generator, article: str = "a", plural: bool = False) -> str:
        """``a small striped red circle at top left``."""
        noun = say(self.shape or "object", rng)
        if plural:
            noun += "es" if noun.endswith(("s", "x")) else "s"
        texture = "" if self.texture == "plain" else self.texture
        parts = [say(self.size, rng), texture, self.colour, noun]
        text = " ".join(part for part in parts if part)
        if article == "a" and text[0] in "aeio8":
            article = "an"
        place = f" at {say(PLACE_WORDS[self.cell], rng)}" if self.cell is not None else ""
        return f"{article} {text}{place}".strip()


@dataclass(frozen=True)
class Caption:
    text: str
    claims: tuple[Claim, ...]

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of ``scene``."""
        return all(claim(scene) for claim in self.claims)


def exist(*nouns: Noun) -> Claim:
    """Different things fit the nouns, one each."""

    def claim(scene: Scene) -> bool:
        return any(
            all(noun.fits(thing) for noun, thing in zip(nouns, chosen, strict=True))
            for chosen in permutations(scene.things, len(nouns))
        )

    return claim


def stand(first: Noun, relation: str, second: Noun) -> Claim:
    """Something that fits ``first`` stands in ``relation`` to something else that fits ``second``."""
    test = RELATIONS[relation]
    return lambda scene: any(first.fits(a) and second.fits(b) and test(a, b) for a, b in permutations(scene.things, 2))


def count_is(number: int, noun: Noun | None = None) -> Claim:
    noun = noun or Noun()
    return lambda scene: len(noun.among(scene)) == number


def ground_is(ground: str) -> Claim:
    return lambda scene: scene.ground == ground


def relations_of(first: Thing, second: Thing) -> list[str]:
    return [name for name, test in RELATIONS.items() if test(first, second)]


def captions(scene: Scene, rng: np.random.Generator, num: int = 5) -> list[Caption]:
    """``num`` captions with different words, each of one or two things; true, and mostly of this scene
    alone.
    """
    made: dict[str, Caption] = {}
    while len(made) < num:
        caption = _single(scene, rng) if len(scene.things) == 1 else _double(scene, rng)
        made.setdefault(caption.text, caption)
    return list(made.values())


def _single(scene: Scene, rng: np.random.Generator) -> Caption:
    """All of the one thing, that it is alone, and at times the ground."""
    noun = _described(scene.things[0], rng, size=1.0, texture=1.0, place=0.85)
    text = noun.words(rng, article="only a" if rng.random() < 0.5 else "one")
    return _grounded(scene, rng, 0.6, Caption(text, (exist(noun), count_is(1))))


def _double(scene: Scene, rng: np.random.Generator) -> Caption:
    """Two things by their places, or one in relation to the other."""
    one, two = (scene.things[index] for index in rng.permutation(len(scene.things))[:2])
    form = rng.random()
    if form < 0.35:
        first, second = _described(one, rng), _described(two, rng)
        relation = str(rng.choice(relations_of(one, two)))
        text = f"{first.words(rng)} {say(relation, rng)} {second.words(rng)}"
        return _grounded(scene, rng, 0.3, Caption(text, (stand(first, relation, second),)))
    if form < 0.7:
        first, second = _described(one, rng, 0.2, 0.5, 1.0), _described(two, rng, 0.2, 0.5, 1.0)
        return Caption(f"{first.words(rng)} and {second.words(rng)}", (exist(first, second),))
    number = len(scene.things)
    first, second = _described(one, rng), _described(two, rng)
    text = f"{NUMBERS[number]} {say('object', rng)}s with {first.words(rng)} and {second.words(rng)}"
    return _grounded(scene, rng, 0.3, Caption(text, (exist(first, second), count_is(number))))


def _described(
    thing: Thing, rng: np.random.Generator, size: float = 0.5, texture: float = 0.7, place: float = 0.0
) -> Noun:
    """Shape and colour, and the rest with the chances given; that something is plain is never said."""
    return Noun(
        shape=thing.shape,
        colour=thing.colour,
        size=thing.size if rng.random() < size else "",
        texture=thing.texture if thing.texture != "plain" and rng.random() < texture else "",
        cell=thing.cell if rng.random() < place else None,
    )


def _grounded(scene: Scene, rng: np.random.Generator, chance: float, caption: Caption) -> Caption:
    if rng.random() >= chance:
        return caption
    return Caption(f"{caption.text} on {scene.ground} ground", (*caption.claims, ground_is(scene.ground)))


def vocabulary() -> list[str]:
    """Every word piece of every text, special tokens first: what ``shapes_vocab.txt`` holds."""
    spoken = [word for same in SAME.values() for phrase in same for word in phrase.split()]
    words = {*spoken, *SHAPES, *DIGITS, *COLOURS, *TEXTURES, *NUMBERS, *GROUNDS, "ground", "##s", "##es"}
    rest = (
        "a an only with and on at of the what color shape is are there how many in where texture or "
        "image both either exactly more than total contain"
    )
    words |= set(rest.split())
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
