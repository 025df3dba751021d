"""Whole-word masking for masked language modelling.

Published code uses a collator that draws round(length * p) positions among all but [CLS] and [SEP], padding
included, and un-masks the padding afterwards: a short caption then often has no mask at all (13.6 % of
ten-token captions at p = .15), and the share of real tokens that is masked depends on the padded length.
Here words are drawn among the real ones only, the expected share is p whatever the length, and every caption
has at least one masked word.
"""

from __future__ import annotations

import numpy as np

from vlmerge_cli.data.tokenizer import Ids, Tokenizer

IGNORE = -100  # a label that no loss counts
REPLACED, RANDOM = 0.8, 0.1  # of the chosen tokens: [MASK], a random piece; the rest stays


def mask_words(ids: Ids, tokenizer: Tokenizer, ratio: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """``ids`` (L,) with words masked, and the labels (L,): the true id where masked, IGNORE elsewhere.

    A word is a piece and the ## pieces after it; they are chosen together. Of W words floor(ratio W + u) are
    chosen, u uniform in [0, 1), so each with probability ``ratio``; at least one. A chosen token becomes
    [MASK] (80 %), a random ordinary piece (10 %) or stays (10 %). Padding and special tokens are never
    chosen.
    """
    real = ~tokenizer.special[ids]
    word = np.cumsum(real & ~tokenizer.continues[ids])  # 1, 2, ... ; a leading ## piece counts as word 0
    labels = np.full_like(ids, IGNORE)
    names = np.unique(word[real])
    if len(names) == 0:
        return ids.copy(), labels
    count = min(len(names), max(1, int(ratio * len(names) + rng.random())))
    chosen = real & np.isin(word, rng.permutation(names)[:count])
    labels[chosen] = ids[chosen]
    draw, other = rng.random(len(ids)), rng.choice(tokenizer.ordinary, len(ids))
    masked = ids.copy()
    masked[chosen & (draw < REPLACED)] = tokenizer.mask
    swapped = chosen & (draw >= REPLACED) & (draw < REPLACED + RANDOM)
    masked[swapped] = other[swapped]
    return masked, labels
