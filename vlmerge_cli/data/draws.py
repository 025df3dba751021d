"""Random generators that depend on what is drawn for, never on which process draws."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def generator(seed: int, *where: int | str) -> np.random.Generator:
    """A generator of its own for one draw: the same for the same ``(seed, *where)`` on every rank and worker.

    ``where`` names the purpose and the place, e.g. ``("mask", step, slot)``. The Philox key is the 128-bit
    BLAKE2 digest of the words, so that neighbouring places are as unlike each other as distant ones.
    """
    words = "\x1f".join(f"{type(word).__name__}:{word}" for word in (seed, *where))
    key = int.from_bytes(blake2b(words.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def number(seed: int, *where: int | str) -> int:
    """The same draw as one integer in [0, 2^63), to seed another library's generator."""
    return int(generator(seed, *where).integers(2**63))
