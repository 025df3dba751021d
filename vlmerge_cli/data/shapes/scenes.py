"""A scene: a few things with shape, colour, size, texture and place before a background, from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlmerge_cli.data.draws import generator

Variant = Literal["shapes", "digits"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
DIGITS = tuple("0123456789")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "pink")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "spotted")
PLACES = ("top left", "top right", "bottom left", "bottom right")  # cell = 2 * row + column
GROUNDS = ("dark", "light")

NUM_WEIGHTS = (0.25, 0.4, 0.25, 0.1)  # how often a scene has 1, 2, 3, 4 things
TEXTURE_WEIGHTS = (0.5, 0.25, 0.25)
RADIUS = {"small": (0.1, 0.125), "large": (0.17, 0.205)}  # of the image's side


@dataclass(frozen=True)
class Thing:
    """One object. ``x``, ``y`` (centre) and ``radius`` are shares of the image's side, ``angle`` radians."""

    shape: str
    colour: str
    size: str
    texture: str
    cell: int
    x: float
    y: float
    radius: float
    angle: float
    glyph: int = 0  # which handwritten digit of its kind, in the digits variant

    @property
    def row(self) -> int:
        return self.cell // 2

    @property
    def column(self) -> int:
        return self.cell % 2


@dataclass(frozen=True)
class Scene:
    """Things by cell, on a ``ground`` (dark or light); ``seed`` and ``number`` key its noise."""

    seed: int
    split: str
    number: int
    ground: str
    things: tuple[Thing, ...]

    def draws(self, purpose: str) -> np.random.Generator:
        """This scene's random numbers for one purpose."""
        return generator(self.seed, purpose, self.split, self.number)


def shape_names(variant: Variant) -> tuple[str, ...]:
    return SHAPES if variant == "shapes" else DIGITS


def scene(
    seed: int, split: str, number: int, variant: Variant = "shapes", num_things: tuple[int, int] = (1, 4)
) -> Scene:
    """Scene ``number`` of a split; ``num_things`` is the least and the most, at most one thing a quarter.

    The same arguments give the same scene; another split gives others.
    """
    rng = generator(seed, "scene", variant, split, number, *num_things)
    least, most = num_things
    weights = np.array(NUM_WEIGHTS[least - 1 : most])
    count = least + int(rng.choice(len(weights), p=weights / weights.sum()))
    cells = sorted(int(cell) for cell in rng.permutation(4)[:count])
    names = shape_names(variant)
    things = tuple(_thing(rng, cell, str(rng.choice(names))) for cell in cells)
    return Scene(seed, split, number, str(rng.choice(GROUNDS)), things)


def labelled_scene(seed: int, split: str, number: int, label: int, variant: Variant = "shapes") -> Scene:
    """A scene whose one large thing is of class ``label`` (see ``class_names``), among small ones."""
    colour, shape = class_names(variant)[label].split("_")
    plain = scene(seed, f"{split} of class", number, variant, (1, 3))
    rng = plain.draws("main thing")
    main = int(rng.integers(len(plain.things)))
    things = tuple(
        _thing(rng, old.cell, shape, colour, "large")
        if position == main
        else _thing(rng, old.cell, old.shape, old.colour, "small")
        for position, old in enumerate(plain.things)
    )
    return Scene(seed, plain.split, number, plain.ground, things)


def class_names(variant: Variant) -> tuple[str, ...]:
    """``red_circle`` ...: colour and shape of the large thing, sorted as class folders are."""
    return tuple(sorted(f"{colour}_{shape}" for colour in COLOURS for shape in shape_names(variant)))


def _thing(rng: np.random.Generator, cell: int, shape: str, colour: str = "", size: str = "") -> Thing:
    size = size or str(rng.choice(SIZES))
    radius = float(rng.uniform(*RADIUS[size]))
    slack = 0.25 - radius  # how far the centre may move without leaving its quarter
    row, column = divmod(cell, 2)
    return Thing(
        shape=shape,
        colour=colour or str(rng.choice(COLOURS)),
        size=size,
        texture=str(rng.choice(TEXTURES, p=TEXTURE_WEIGHTS)),
        cell=cell,
        x=0.25 + 0.5 * column + float(rng.uniform(-slack, slack)),
        y=0.25 + 0.5 * row + float(rng.uniform(-slack, slack)),
        radius=radius,
        angle=float(rng.uniform(-0.3, 0.3)),
        glyph=int(rng.integers(1 << 30)),
    )
