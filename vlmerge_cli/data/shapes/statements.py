"""Statements over two images, each true of some pairs and false of as many others, as in NLVR2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlmerge_cli.data.shapes.language import NUMBERS, Noun
from vlmerge_cli.data.shapes.scenes import COLOURS, SIZES, Scene, Variant, shape_names

PairClaim = Callable[[Scene, Scene], bool]
MAX_TRIES = 400


@dataclass(frozen=True)
class Stated:
    """A sentence with its pairs of scenes (indices into the pool) and whether it is true of each."""

    text: str
    pairs: tuple[tuple[int, int, bool], ...]


def stated(pool: list[Scene], rng: np.random.Generator, variant: Variant = "shapes") -> Stated:
    """A sentence with two pairs from the pool that make it true and two that make it false, shuffled."""
    while True:
        text, claim = _FORMS[int(rng.integers(len(_FORMS)))](rng, variant)
        found: dict[bool, list[tuple[int, int, bool]]] = {True: [], False: []}
        for _ in range(MAX_TRIES):
            left, right = (int(index) for index in rng.integers(len(pool), size=2))
            truth = claim(pool[left], pool[right])
            if left != right and len(found[truth]) < 2:
                found[truth].append((left, right, truth))
            if len(found[True]) == len(found[False]) == 2:
                pairs = found[True] + found[False]
                return Stated(text, tuple(pairs[index] for index in rng.permutation(4)))


def _noun(rng: np.random.Generator, variant: Variant) -> Noun:
    """One attribute, so that neither truth value is rare."""
    draw = rng.random()
    if draw < 0.5:
        return Noun(colour=str(rng.choice(COLOURS)))
    if draw < 0.8:
        return Noun(shape=str(rng.choice(shape_names(variant))))
    return Noun(size=str(rng.choice(SIZES)), texture=str(rng.choice(("striped", "spotted"))))


def _both(rng: np.random.Generator, variant: Variant) -> tuple[str, PairClaim]:
    noun = Noun(size=str(rng.choice(SIZES))) if rng.random() < 0.3 else _noun(rng, variant)
    text = f"both images contain {noun.words(rng)}"
    return text, lambda left, right: bool(noun.among(left)) and bool(noun.among(right))


def _one_side(rng: np.random.Generator, variant: Variant) -> tuple[str, PairClaim]:
    noun, is_left = _noun(rng, variant), bool(rng.random() < 0.5)
    text = f"there is {noun.words(rng)} in the {'left' if is_left else 'right'} image"
    return text, lambda left, right: bool(noun.among(left if is_left else right))


def _exactly_one(rng: np.random.Generator, variant: Variant) -> tuple[str, PairClaim]:
    noun = _noun(rng, variant)
    text = f"exactly one image contains {noun.words(rng)}"
    return text, lambda left, right: bool(noun.among(left)) != bool(noun.among(right))


def _more(rng: np.random.Generator, _: Variant) -> tuple[str, PairClaim]:
    first, second = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    text = f"there are more objects in the {first} image than in the {second} image"

    def claim(left: Scene, right: Scene) -> bool:
        a, b = len(left.things), len(right.things)
        return a > b if first == "left" else b > a

    return text, claim


def _total(rng: np.random.Generator, _: Variant) -> tuple[str, PairClaim]:
    number = int(rng.integers(2, 5))
    text = f"there are exactly {NUMBERS[number]} objects in total"
    return text, lambda left, right: len(left.things) + len(right.things) == number


def _none(rng: np.random.Generator, variant: Variant) -> tuple[str, PairClaim]:
    noun = _noun(rng, variant)
    text = f"there is no {noun.words(rng, '')} in either image"
    return text, lambda left, right: not noun.among(left) and not noun.among(right)


def _same_ground(rng: np.random.Generator, _: Variant) -> tuple[str, PairClaim]:
    ground = str(rng.choice(("dark", "light")))
    return f"both images are on {ground} ground", lambda left, right: left.ground == right.ground == ground


_FORMS: tuple[Callable[[np.random.Generator, Variant], tuple[str, PairClaim]], ...] = (
    _both, _one_side, _exactly_one, _more, _total, _none, _same_ground,
)  # fmt: skip
