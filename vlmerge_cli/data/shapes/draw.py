"""A scene as pixels, and the labels of its pixels, at any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.data.shapes.digit_glyphs import glyph
from vlmerge_cli.data.shapes.scenes import DIGITS, SHAPES, Scene, Thing

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

COLOUR_RGB = {
    "red": (215, 35, 35), "green": (35, 165, 60), "blue": (45, 75, 230), "yellow": (240, 220, 40),
    "purple": (140, 45, 185), "orange": (245, 135, 20), "white": (248, 248, 248), "pink": (250, 150, 195),
}  # fmt: skip
GROUND_GREY = {"dark": (25, 75), "light": (110, 160)}
TINT = 18.0  # how far a thing's colour strays, of 255
NOISE = 7.0  # standard deviation of the pixel noise, of 255

UNLABELLED, GROUND = 0, 1  # pixel labels; things follow from 2


def pixels(scene: Scene, size_px: int) -> Bytes:
    """The image, (size, size, 3)."""
    rng = scene.draws(f"pixels {size_px}")
    canvas = _ground(rng, scene.ground, size_px)
    for thing in scene.things:
        inside, u, v = _coverage(thing, scene.split, size_px)
        colour = np.array(COLOUR_RGB[thing.colour], np.float32) + rng.uniform(-TINT, TINT, 3).astype(np.float32)
        shade = _texture(thing, u, v, size_px)[..., None] * colour
        canvas += inside[..., None] * (shade - canvas)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(NOISE)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def labels(scene: Scene, size_px: int) -> Bytes:
    """The label of each pixel, (size, size): 1 ground, 2 ... the shapes, 0 where an edge runs through it."""
    result = np.full((size_px, size_px), GROUND, np.uint8)
    for thing in scene.things:
        inside = _coverage(thing, scene.split, size_px)[0]
        names = SHAPES if thing.shape in SHAPES else DIGITS
        result[inside > 0.05] = UNLABELLED
        result[inside > 0.6] = GROUND + 1 + names.index(thing.shape)
    return result


def _ground(rng: np.random.Generator, kind: str, size_px: int) -> Floats:
    """Blocks of grey with a tint of their own, smoothed: (size, size, 3)."""
    grey = rng.uniform(*GROUND_GREY[kind])
    coarse = grey + rng.uniform(-16, 16, (5, 5, 1)) + rng.uniform(-12, 12, (5, 5, 3))
    at = np.linspace(0, 4, size_px)
    low = np.minimum(at.astype(int), 3)
    part = (at - low)[:, None, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part
    part = part.reshape(1, -1, 1)
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part, np.float32)


def _coverage(thing: Thing, split: str, size_px: int) -> tuple[Floats, Floats, Floats]:
    """How much of each pixel the thing covers, and the pixel's place (u, v) in the thing's own axes."""
    at = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    x, y = (at - thing.x)[None, :] / thing.radius, (at - thing.y)[:, None] / thing.radius
    sin, cos = np.float32(np.sin(thing.angle)), np.float32(np.cos(thing.angle))
    u = np.asarray(cos * x + sin * y, np.float32)
    v = np.asarray(cos * y - sin * x, np.float32)
    if thing.shape in DIGITS:
        inside = np.clip((glyph(thing.shape, thing.glyph, split, u, v) - 0.3) * 3, 0, 1)
    else:
        inside = np.clip(_DEPTH[thing.shape](u, v) * thing.radius * size_px + 0.5, 0, 1)
    return inside.astype(np.float32), u, v


def _texture(thing: Thing, u: Floats, v: Floats, size_px: int) -> Floats:
    """Brightness of the thing's colour: 1, or stripes or spots of .4; never finer than three pixels."""
    period = max(0.6, 3.0 / (thing.radius * size_px))
    wave = 2 * np.pi / period
    if thing.texture == "striped":
        return np.where(np.sin(wave * u) > 0, 1.0, 0.4).astype(np.float32)
    if thing.texture == "spotted":
        return np.where(np.cos(wave * u) + np.cos(wave * v) > 0.6, 0.4, 1.0).astype(np.float32)
    return np.ones_like(u + v)


# Each shape as its depth: > 0 inside, 0 on the edge, about 1 / radius a unit of length, within u² + v² <= 1.


def _circle(u: Any, v: Any) -> Any:
    return 1 - np.hypot(u, v)


def _ring(u: Any, v: Any) -> Any:
    far = np.hypot(u, v)
    return np.minimum(1 - far, far - 0.5)


def _square(u: Any, v: Any) -> Any:
    return 0.82 - np.maximum(np.abs(u), np.abs(v))


def _cross(u: Any, v: Any) -> Any:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(1 - u, 0.3 - v), np.minimum(1 - v, 0.3 - u))


def _triangle(u: Any, v: Any) -> Any:
    side = np.sqrt(3) / 2
    v = v - 0.2
    return 0.58 - np.maximum(v, np.abs(u) * side - v / 2)


def _star(u: Any, v: Any) -> Any:
    fifth = 2 * np.pi / 5
    turn = np.abs((np.arctan2(u, -v) + fifth / 2) % fifth - fifth / 2)  # from the nearest tip
    far = np.hypot(u, v)
    tip, notch = np.array([1.05, 0.0]), 0.45 * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    edge = (notch - tip) / np.hypot(*(notch - tip))
    return edge[1] * (tip[0] - far * np.cos(turn)) + edge[0] * far * np.sin(turn)


_DEPTH: dict[str, Callable[[Any, Any], Any]] = {
    "circle": _circle, "ring": _ring, "square": _square, "cross": _cross, "triangle": _triangle,
    "star": _star,
}  # fmt: skip
