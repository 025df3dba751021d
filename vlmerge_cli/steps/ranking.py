"""Recall at k among many candidates, in chunks: the table of all scores is never in memory.

A candidate's rank is the number of candidates that score higher, and of equal ones that stand before it: the place a
stable sort gives it. So a model that finds all alike gets what chance gives, not everything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmerge_cli import ranks
from vlmerge_cli.steps.evaluation import percent, shared_total

CHUNK = 256  # queries scored at a time, against all candidates
CUTS = (1, 5, 10)


def recalls(images: Tensor, texts: Tensor, owner: Tensor, chunk_size: int = CHUNK) -> dict[str, float]:
    """Percentages ``tr_1`` ... ``ir_10``, ``tr_mean``, ``ir_mean`` and ``mean_recall``.

    ``images`` (I, d) and ``texts`` (T, d) are features whose products are scores; text t belongs to image
    ``owner[t]``. TR@k: an image counts if one of its texts is among its k best (an image without texts is left out of
    the count); IR@k: a text counts if its image is among its k best. Each rank takes every n-th chunk of queries and
    the hits are added up: whole numbers, the same for any number of ranks. Memory: chunk_size · max(I, T) scores.
    """
    place = torch.arange(len(texts), device=texts.device)
    first = torch.argsort(owner, stable=True)  # texts by image
    num_texts = torch.bincount(owner, minlength=len(images))
    start = torch.cumsum(num_texts, 0) - num_texts
    width = int(num_texts.max()) if len(texts) else 0
    own = first[(start[:, None] + torch.arange(width, device=owner.device)).clamp(max=len(texts) - 1)]
    own = torch.where(torch.arange(width, device=owner.device) < num_texts[:, None], own, -1)  # (I, most texts)
    found = {
        "tr": _hits(images, texts, own, chunk_size),
        "ir": _hits(texts, images, owner[place][:, None], chunk_size),
    }
    queries = {"tr": int((num_texts > 0).sum()), "ir": len(texts)}
    scores: dict[str, float] = {}
    for name, hits in found.items():
        own_scores = {f"{name}_{cut}": percent(int(hit), queries[name]) for cut, hit in zip(CUTS, hits, strict=True)}
        scores |= own_scores | {f"{name}_mean": sum(own_scores.values()) / len(CUTS)}
    return scores | {"mean_recall": (scores["tr_mean"] + scores["ir_mean"]) / 2}


def _hits(queries: Tensor, candidates: Tensor, own: Tensor, chunk_size: int) -> Tensor:
    """(cuts,) queries one of whose ``own`` candidates (Q, n; -1: none) ranks below each cut."""
    cuts = torch.tensor(CUTS, device=queries.device)
    hits = torch.zeros(len(CUTS), dtype=torch.int64, device=queries.device)
    turned = candidates.T
    # Both are written over again and again: a new one each time costs as much as filling it.
    scores, beaten = (queries.new_empty(min(chunk_size, len(queries)), len(candidates)) for _ in range(2))
    for number, first in enumerate(range(0, len(queries), chunk_size)):
        if number % ranks.world_size() == ranks.rank():
            part = queries[first : first + chunk_size]
            found = torch.mm(part, turned, out=scores[: len(part)])  # (chunk, candidates)
            rank = _best_rank(found, own[first : first + chunk_size], beaten[: len(part)])
            hits += (rank[:, None] < cuts).sum(0)
    return shared_total(hits)


def _best_rank(scores: Tensor, own: Tensor, beaten: Tensor) -> Tensor:
    """(Q,) the rank of the own candidate that stands first; those without one get the number of candidates.

    ``beaten`` is room for as many numbers as there are scores.
    """
    own_scores = torch.where(own >= 0, scores.gather(1, own.clamp(min=0)), -torch.inf)
    best, at = own_scores.max(1)
    # Of equal own candidates the one that stands first in the list; own rows are in rising order.
    at = torch.where(own_scores == best[:, None], own, scores.shape[1]).min(1).values
    # Counted as floats, which is several times faster than as booleans and exact up to 2^24 candidates.
    higher = torch.gt(scores, best[:, None], out=beaten).sum(1).long()
    equal = torch.ge(scores, best[:, None], out=beaten).sum(1).long() - higher
    rank = higher
    tied = torch.nonzero(equal > 1)[:, 0]
    if len(tied):
        before = torch.arange(scores.shape[1], device=scores.device) < at[tied, None]
        rank = rank.index_add(0, tied, ((scores[tied] == best[tied, None]) & before).sum(1))
    return torch.where((own >= 0).any(1), rank, scores.shape[1])
