"""Texts that a model writes itself, by its masked-language head: from all masks, two words a step, in random order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.weights.vlmodel import VLModel

WORDS_A_STEP = 2
SHORTEST = 4  # words; the longest text fills what the model takes


@torch.no_grad()
def write_texts(model: VLModel, tokenizer: Tokenizer, images: Tensor, seed: int, first: int) -> Tensor:
    """A text for each of ``images`` (B, 3, px, px), as ids (B, L): sampled given the image, at temperature 1.

    Text i is drawn by ``seed`` and ``first`` + i alone; its length is uniform. Needs the model's mlm head.
    """
    ids, orders = blank_texts(tokenizer, len(images), seed, first)
    rngs = [generator(seed, "words", first + row) for row in range(len(ids))]
    ids = ids.to(images.device)
    forbidden = torch.ones(model.config.vocab_size, dtype=torch.bool, device=ids.device)
    forbidden[torch.from_numpy(tokenizer.ordinary).to(ids.device)] = False
    pixels = model.image(images)
    for start in range(0, max(map(len, orders)), WORDS_A_STEP):
        rows, places = (torch.tensor(found, device=ids.device) for found in _next(orders, start))
        joint = model.fuse(model.text(ids, ids != tokenizer.pad), pixels)
        scores = model.mlm(joint.text[rows, places]).double().masked_fill(forbidden, -torch.inf)
        upto = torch.softmax(scores, 1).cumsum(1)
        points = torch.tensor([rngs[row].random() for row in rows.tolist()], device=ids.device, dtype=upto.dtype)
        drawn = torch.searchsorted(upto, (points * upto[:, -1])[:, None], right=True)[:, 0]
        ids[rows, places] = drawn.clamp(max=len(forbidden) - 1)
    return ids


def random_texts(tokenizer: Tokenizer, num: int, seed: int) -> Tensor:
    """Words drawn uniformly, as ids (num, L)."""
    ids, orders = blank_texts(tokenizer, num, seed, 0)
    for row, order in enumerate(orders):
        words = generator(seed, "words", row).choice(tokenizer.ordinary, len(order))
        ids[row, 1 : 1 + len(order)] = torch.from_numpy(words)
    return ids


def blank_texts(tokenizer: Tokenizer, num: int, seed: int, first: int) -> tuple[Tensor, list[list[int]]]:
    """``[CLS] [MASK] ... [SEP] [PAD] ...`` (num, L), and the order in which each one's words are to be filled in."""
    longest = tokenizer.length_tokens - 2
    ids = torch.full((num, tokenizer.length_tokens), tokenizer.pad)
    orders = []
    for row in range(num):
        rng = generator(seed, "length", first + row)
        length = int(rng.integers(min(SHORTEST, longest), longest + 1))
        ids[row, 0] = tokenizer.ids["[CLS]"]
        ids[row, 1 : 1 + length] = tokenizer.mask
        ids[row, 1 + length] = tokenizer.ids["[SEP]"]
        orders.append((1 + rng.permutation(length)).tolist())
    return ids, orders


def _next(orders: list[list[int]], start: int) -> tuple[list[int], list[int]]:
    """Rows and places of the words of one step."""
    found = [(row, place) for row, order in enumerate(orders) for place in order[start : start + WORDS_A_STEP]]
    rows, places = np.array(found).T.tolist()
    return rows, places
