"""Texts that a model writes itself."""

from __future__ import annotations

import torch

from tests.model.conftest import build, micro
from vlmerge_cli.data import tokenizer
from vlmerge_cli.steps.generated_texts import blank_texts, random_texts, write_texts

LENGTH = 6
TOKENS = tokenizer.load("bundled", LENGTH)


def framed(ids: torch.Tensor) -> list[int]:
    """The lengths of texts whose words are ordinary ones between [CLS] and [SEP]."""
    ordinary = set(TOKENS.ordinary.tolist())
    lengths = []
    for row in ids.tolist():
        end = row.index(TOKENS.ids["[SEP]"])
        assert row[0] == TOKENS.ids["[CLS]"]
        assert set(row[1:end]) <= ordinary
        assert row[end + 1 :] == [TOKENS.pad] * (LENGTH - end - 1)
        lengths.append(end - 1)
    return lengths


def test_every_text_depends_on_its_own_place_alone() -> None:
    torch.manual_seed(0)
    model = build(micro("specific", heads=("mlm",), vocab_size=TOKENS.size, drop_path=0.0)).double().eval()
    images = torch.randn(5, 3, 8, 8).double()
    whole = write_texts(model, TOKENS, images, 3, 10)
    parts = [write_texts(model, TOKENS, images[rows], 3, 10 + rows.start) for rows in (slice(0, 2), slice(2, 5))]
    assert torch.equal(whole, torch.cat(parts))
    assert set(framed(whole)) <= {4}
    assert not torch.equal(whole, write_texts(model, TOKENS, images, 4, 10))


def test_words_are_drawn_as_the_model_says() -> None:
    """A head that knows one word writes only that."""
    model = build(micro("specific", heads=("mlm",), vocab_size=TOKENS.size, drop_path=0.0)).eval()
    word = int(TOKENS.ordinary[7])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("mlm_score") and name.endswith("bias") and len(parameter) == model.config.vocab_size:
                parameter[word] = 1e4
    found = write_texts(model, TOKENS, torch.zeros(3, 3, 8, 8), 0, 0)
    assert all(set(row[1 : 1 + length]) == {word} for row, length in zip(found.tolist(), framed(found), strict=True))


def test_random_texts() -> None:
    found = random_texts(TOKENS, 50, 1)
    framed(found)
    assert len(set(found[:, 1].tolist())) > 20
    assert torch.equal(found[:10], random_texts(TOKENS, 10, 1))


def test_blank_texts_are_filled_once_each() -> None:
    ids, orders = blank_texts(TOKENS, 20, 0, 0)
    for row, order in zip(ids, orders, strict=True):
        assert sorted(order) == (row == TOKENS.mask).nonzero()[:, 0].tolist()
