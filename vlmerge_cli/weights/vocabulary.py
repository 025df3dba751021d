"""The vocabulary of a checkpoint: its file stands beside the weights, its digest in their metadata. No torch here.

``tokenizer`` in the metadata is the name under which it was given (``bundled``, a file, a Hub repository); the file
itself is ``vocab.txt`` or ``tokenizer.json`` in a checkpoint's folder; a single file says where it is
(``tokenizer_at``), and takes one of these beside it, alone or as ``NAME.vocab.txt``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmerge_cli import console
from vlmerge_cli.data import provenance
from vlmerge_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from vlmerge_cli.data.tokenizer import Tokenizer
    from vlmerge_cli.model.config import ModelConfig

FILES = ("tokenizer.json", "vocab.txt")
DIGEST = "tokenizer_digest"
AT = "tokenizer_at"  # the way from a single file to its vocabulary


def noted(found: Tokenizer, name: str) -> dict[str, str]:
    """What the metadata of a checkpoint says of its vocabulary, which was given as ``name``."""
    return {"tokenizer": name, DIGEST: found.digest}


def file_of(found: Tokenizer) -> dict[str, bytes]:
    """The file that is kept beside the weights: its name there, and what is in it."""
    if found.path is None:
        return {}
    return {FILES[0] if found.path.suffix == ".json" else FILES[1]: found.path.read_bytes()}


def moved(about: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, for what is made of it at ``new``: the ways to its data and vocabulary."""
    about = provenance.moved(about, old, new)
    if DIGEST not in about or new.suffix != ".safetensors":
        return about
    files = [Path(name) for name in _candidates(about, old) if Path(name).is_file()]
    at = {AT: os.path.relpath(files[0].absolute(), new.absolute().parent)} if files else {}
    return {**{name: value for name, value in about.items() if name != AT}, **at}


def load(about: Mapping[str, Any], place: Path, config: ModelConfig, given: str | None = None) -> Tokenizer:
    """The checkpoint's vocabulary; ``given`` is the user's, which must be the same one.

    Without a digest in the metadata ``given`` is taken at its word. Raises UsageError for a vocabulary that is not
    the checkpoint's, DataError where it is nowhere or does not fit the model.
    """
    from vlmerge_cli.data import tokenizer

    name = name_of(about, place, config) if given is None else given
    found = tokenizer.load(name, config.max_text_tokens)
    if about.get(DIGEST, found.digest) != found.digest:
        raise UsageError(f"{name} is not the vocabulary that the checkpoint was made with", fix=_FIX)
    if found.size > config.vocab_size:
        what = f"the vocabulary {name} has {found.size} words, the model {config.vocab_size}"
        raise DataError(what, fix="name the model's own: --tokenizer FILE|REPOSITORY|bundled")
    return found


def name_of(about: Mapping[str, Any], place: Path, config: ModelConfig) -> str:
    """What the checkpoint's vocabulary is called, or where it lies; one that has to be guessed is said.

    Raises DataError where the recorded one is nowhere.
    """
    wanted = about.get(DIGEST)
    if wanted is None:
        return _guessed(about, place, config)
    from vlmerge_cli.data import tokenizer

    missing: DataError | None = None
    for name in _candidates(about, place):
        try:
            if tokenizer.load(name, config.max_text_tokens).digest == wanted:
                return name
        except DataError as error:
            missing = error
    why = f": {missing.what}" if missing is not None else ""
    what = f"the vocabulary that the checkpoint was made with ({about.get('tokenizer')}) is not at hand{why}"
    raise DataError(what, where=str(place), fix=_FIX)


def check(about: Mapping[str, Any], checkpoint: str, found: Tokenizer, name: str) -> None:
    """Raises UsageError where a checkpoint to start from was made with another vocabulary."""
    if about.get(DIGEST, found.digest) != found.digest:
        what = f"{name} is not the vocabulary that {checkpoint} was made with"
        raise UsageError(what, fix=f"--tokenizer {checkpoint}")


_FIX = "give the one that it was made with: --tokenizer FILE|REPOSITORY|bundled"


def _candidates(about: Mapping[str, Any], place: Path) -> Iterator[str]:
    """Where the recorded vocabulary may be, the nearest first; never a name alone that lies in the current folder."""
    name = str(about.get("tokenizer") or "")
    if name == "bundled":
        yield name
    yield from beside(place)
    if about.get(AT):
        yield os.path.normpath((place if place.is_dir() else place.parent) / str(about[AT]))
    if name and name != "bundled":
        yield name


def beside(place: Path) -> list[str]:
    """The files of vocabularies in a checkpoint's folder, or beside a single file."""
    if place.is_dir():
        found = [place / file for file in FILES]
    else:
        stem = place.name.removesuffix(".safetensors")
        found = [place.with_name(f"{stem}.{file}") for file in FILES] + [place.with_name(file) for file in FILES]
    return [str(path) for path in found if path.is_file()]


def _guessed(about: Mapping[str, Any], place: Path, config: ModelConfig) -> str:
    """A vocabulary for a checkpoint without a digest: the recorded one, one that came along, or by the model's size."""
    if about.get("tokenizer"):
        return str(about["tokenizer"])
    if place.is_dir() and (found := beside(place)):
        return found[0]
    from vlmerge_cli.model.config import preset

    name = "bundled" if config.vocab_size <= preset("small").vocab_size else "bert-base-uncased"
    console.warn(f"the checkpoint does not say its vocabulary: taken to be {name}, by its size ({config.vocab_size})")
    return name
