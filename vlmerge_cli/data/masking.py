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
    labels, masked = np.full_like(ids, IGNORE), ids.copy()
    words: list[list[int]] = []
    for place in (~tokenizer.special[ids]).nonzero()[0].tolist():
        if words and tokenizer.continues[ids[place]]:
            words[-1].append(place)
        else:
            words.append([place])
    if not words:
        return masked, labels
    count = min(len(words), max(1, int(ratio * len(words) + rng.random())))
    chosen = np.array([place for word in rng.permutation(len(words))[:count] for place in words[word]])
    labels[chosen] = ids[chosen]
    draw = rng.random(len(chosen))
    other = tokenizer.ordinary[rng.integers(len(tokenizer.ordinary), size=len(chosen))]
    masked[chosen] = np.where(draw < REPLACED, tokenizer.mask, np.where(draw < REPLACED + RANDOM, other, ids[chosen]))
    return masked, labels
