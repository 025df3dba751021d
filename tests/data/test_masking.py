import numpy as np
import pytest

from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.masking import IGNORE, mask_words
from vlmerge_cli.data.tokenizer import load


@pytest.fixture(scope="module")
def tokenizer():
    return load("bundled", 16)


def many(tokenizer, text, ratio, num):
    ids = tokenizer.encode(text)
    pairs = [mask_words(ids, tokenizer, ratio, generator(0, "mask", number)) for number in range(num)]
    return ids, np.stack([masked for masked, _ in pairs]), np.stack([labels for _, labels in pairs])


def test_padding_and_special_tokens_are_never_picked(tokenizer):
    ids, masked, labels = many(tokenizer, "a red star", 0.9, 300)
    real = np.arange(len(ids)) % len(ids)
    inside = (real >= 1) & (real <= 3)
    assert (labels[:, ~inside] == IGNORE).all()
    assert (masked[:, ~inside] == ids[~inside]).all()


def test_labels_are_the_true_ids_and_the_rest_is_untouched(tokenizer):
    ids, masked, labels = many(tokenizer, "four boxes with a blue ring", 0.4, 300)
    picked = labels != IGNORE
    assert (labels[picked] == np.broadcast_to(ids, labels.shape)[picked]).all()
    assert (masked[~picked] == np.broadcast_to(ids, labels.shape)[~picked]).all()


def test_pieces_of_a_word_move_together(tokenizer):
    ids, _, labels = many(tokenizer, "two boxes and three rings", 0.3, 400)
    picked = labels != IGNORE
    pieces = [place for place in range(len(ids)) if tokenizer.continues[ids[place]]]
    assert len(pieces) == 2
    for place in pieces:
        assert (picked[:, place] == picked[:, place - 1]).all()
        assert 0 < picked[:, place].mean() < 1


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.5])
def test_every_caption_has_a_mask_and_the_share_is_the_ratio(tokenizer, ratio):
    _, _, labels = many(tokenizer, "a small red star at top left and a big blue ring", ratio, 2000)
    picked = (labels[:, 1:13] != IGNORE).sum(1)
    assert picked.min() >= 1
    assert picked.max() - picked.min() <= 1  # floor or ceiling of ratio x words
    assert abs(picked.mean() / 12 - ratio) < 0.01


def test_a_single_word_is_always_masked(tokenizer):
    _, _, labels = many(tokenizer, "star", 0.01, 50)
    assert (labels[:, 1] != IGNORE).all()


def test_an_empty_text_has_no_mask(tokenizer):
    ids, masked, labels = many(tokenizer, "", 0.5, 3)
    assert (masked == ids).all()
    assert (labels == IGNORE).all()


def test_eighty_ten_ten(tokenizer):
    _, masked, labels = many(tokenizer, "a small red star at top left and a big blue ring", 0.5, 4000)
    picked = labels != IGNORE
    num = picked.sum()
    assert abs((masked[picked] == tokenizer.mask).sum() / num - 0.8) < 0.01
    same = (masked[picked] == labels[picked]).sum() / num
    by_chance = 0.1 / len(tokenizer.ordinary)
    assert abs(same - 0.1 - by_chance) < 0.01
    assert not np.isin(masked[picked], [0, 1, 2, 3]).any()


def test_the_input_is_not_changed(tokenizer):
    ids = tokenizer.encode("a red star")
    before = ids.copy()
    mask_words(ids, tokenizer, 0.9, generator(0))
    assert (ids == before).all()
