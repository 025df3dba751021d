from pathlib import Path

import numpy as np
import pytest

from vlmerge_cli.data.shapes.language import vocabulary
from vlmerge_cli.data.tokenizer import BUNDLED, load
from vlmerge_cli.errors import DataError, UsageError


def test_the_bundled_vocabulary_is_that_of_the_grammar():
    assert BUNDLED.read_text().splitlines() == vocabulary()


def test_ids_by_hand(tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "box", "##es", "##s", ","]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = load(tmp_path / "vocab.txt", 8)
    assert tokenizer.encode("Red BOXES, reds").tolist() == [2, 5, 6, 7, 9, 5, 8, 3]
    assert tokenizer.encode("réd zebra").tolist() == [2, 5, 1, 3, 0, 0, 0, 0]
    assert tokenizer.encode("").tolist() == [2, 3, 0, 0, 0, 0, 0, 0]
    assert tokenizer.encode("red " * 20).tolist() == [2, 5, 5, 5, 5, 5, 5, 3]
    assert tokenizer.decode(tokenizer.encode("red boxes")) == "red boxes"
    assert tokenizer.special.nonzero()[0].tolist() == [0, 2, 3, 4]
    assert tokenizer.continues.nonzero()[0].tolist() == [7, 8]
    assert tokenizer.ordinary.tolist() == [5, 6, 7, 8, 9]


def test_a_tokenizer_json_gives_the_same_ids(tmp_path: Path):
    words = load("bundled", 12)
    words.inner.enable_padding(length=50)
    words.inner.save(str(tmp_path / "tokenizer.json"))
    words.inner.no_padding()
    again = load(tmp_path, 12)
    text = "three boxes with a small striped circle"
    assert np.array_equal(again.encode(text), words.encode(text))


def test_a_vocabulary_without_mask_is_refused(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n")
    with pytest.raises(DataError, match=r"lacks \[MASK\]"):
        load(tmp_path / "vocab.txt", 8)


def test_a_file_that_is_no_tokenizer(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer file"):
        load(tmp_path / "tokenizer.json", 8)


def test_a_hub_name_without_network_says_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_args, **_kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(DataError, match="from the Hub: no network"):
        load("some/model", 8)


def test_no_room_for_a_word():
    with pytest.raises(UsageError):
        load("bundled", 2)
