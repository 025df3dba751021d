"""Text to token ids of a fixed length: BERT's WordPiece, from the Hub, a local file or the bundled
vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli.errors import DataError, UsageError

BUNDLED = Path(__file__).with_name("shapes_vocab.txt")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Tokenizer:
    """Lower-cases, splits into word pieces, frames with [CLS] and [SEP]; ``length_tokens`` includes both."""

    inner: Any = field(repr=False)  # a tokenizers.Tokenizer
    length_tokens: int
    path: Path | None = None  # the file that it was read from

    def __post_init__(self) -> None:
        if self.length_tokens < 3:
            raise UsageError(f"a text of {self.length_tokens} tokens holds no word", fix="use 3 tokens or more")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Vocabulary: piece to id."""
        return dict(self.inner.get_vocab())

    @cached_property
    def size(self) -> int:
        return 1 + max(self.ids.values())

    @cached_property
    def digest(self) -> str:
        """Of the vocabulary: sha256 over its pieces in the order of their ids, one a line."""
        pieces = sorted(self.ids, key=lambda piece: self.ids[piece])
        return "sha256:" + hashlib.sha256("\n".join(pieces).encode()).hexdigest()

    @cached_property
    def pad(self) -> int:
        return self.ids["[PAD]"]

    @cached_property
    def mask(self) -> int:
        return self.ids["[MASK]"]

    @cached_property
    def special(self) -> NDArray[np.bool_]:
        """For each id whether it stands for no text: [PAD], [UNK] not counted, (size,)."""
        table = np.zeros(self.size, bool)
        table[[self.ids[name] for name in SPECIAL if name != "[UNK]"]] = True
        return table

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """For each id whether it goes on with the word before it (##), (size,)."""
        table = np.zeros(self.size, bool)
        table[[number for piece, number in self.ids.items() if piece.startswith("##")]] = True
        return table

    @cached_property
    def ordinary(self) -> Ids:
        """The ids a random replacement is drawn from: everything but the five special tokens."""
        special = {self.ids[name] for name in SPECIAL}
        return np.array(sorted(set(self.ids.values()) - special), np.int64)

    def encode(self, text: str) -> Ids:
        """``[CLS] pieces [SEP] [PAD] ...``, (length_tokens,); a long text is cut before [SEP]."""
        pieces = self.inner.encode(text, add_special_tokens=False).ids[: self.length_tokens - 2]
        ids = np.full(self.length_tokens, self.pad, np.int64)
        ids[0] = self.ids["[CLS]"]
        ids[1 : 1 + len(pieces)] = pieces
        ids[1 + len(pieces)] = self.ids["[SEP]"]
        return ids

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The words of ``ids`` without special tokens."""
        return str(self.inner.decode([int(number) for number in ids], skip_special_tokens=True))


def load(source: str | Path, length_tokens: int) -> Tokenizer:
    """A tokenizer from ``bundled``, a vocab.txt, a tokenizer.json, or a Hub repository's vocab.txt.

    Raises DataError where there is no vocabulary or it lacks a special token.
    """
    path = BUNDLED if str(source) == "bundled" else Path(source)
    if path.is_dir():
        path = next((path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).exists()), path)
    if not path.is_file():
        path = _from_hub(str(source))
    inner = _from_json(path) if path.suffix == ".json" else _from_words(path)
    missing = [name for name in SPECIAL if inner.token_to_id(name) is None]
    if missing:
        raise DataError(f"the vocabulary lacks {', '.join(missing)}", where=str(path), fix="use a BERT vocabulary")
    return Tokenizer(inner, length_tokens, path)


def _from_words(path: Path) -> Any:
    """BERT's uncased pipeline over a file with one piece a line, its number the id."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    words = path.read_text(encoding="utf-8").splitlines()
    vocab = {word: number for number, word in enumerate(words)}
    inner = Inner(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([word for word in SPECIAL if word in vocab])
    return inner


def _from_json(path: Path) -> Any:
    from tokenizers import Tokenizer as Inner

    try:
        inner = Inner.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"not a tokenizer file: {error}", where=str(path)) from None
    inner.no_padding()
    inner.no_truncation()
    return inner


def _from_hub(name: str) -> Path:
    """vocab.txt of a Hub repository, from the local cache if it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    fix = "give a vocab.txt, a tokenizer.json or a Hub repository that has one; 'bundled' is that of shapes"
    try:
        return Path(hf_hub_download(name, "vocab.txt"))
    except HFValidationError:
        raise DataError(f"no vocabulary '{name}'", fix=fix) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot get the vocabulary '{name}' from the Hub: {reason}", fix=fix) from None
