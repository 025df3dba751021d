"""What a checkpoint says of itself before a model is made of it: its sizes, its vocabulary, its data, its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmerge_cli import console
from vlmerge_cli.data import provenance
from vlmerge_cli.data.answers import AnswerVocabulary
from vlmerge_cli.data.source_spec import is_built_in
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.model.config import ModelConfig
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.torch_source import open_source
from vlmerge_cli.weights.vlmodel import config_of

DEFAULT_DATA = ("shapes",)


@dataclass(frozen=True)
class Start:
    """A checkpoint, its configuration and what this tool stored beside the weights; ``place`` is where it lies."""

    path: str
    config: ModelConfig
    about: Mapping[str, Any]
    place: Path

    def load_tokenizer(self, config: ModelConfig, given: str | None = None) -> Tokenizer:
        """The vocabulary that it was trained with, for a model made of it; ``given`` must be the same one.

        Raises UsageError.
        """
        return vocabulary.load(self.about, self.place, config, given)

    @cached_property
    def tokenizer(self) -> str:
        """What that vocabulary is called, or where it lies."""
        return vocabulary.name_of(self.about, self.place, self.config)

    @property
    def answers(self) -> AnswerVocabulary | None:
        """The answers that its VQA head numbers."""
        stored = self.about.get("answers")
        return None if stored is None else AnswerVocabulary(tuple(stored))

    @property
    def view(self) -> str:
        """What evaluation saw of an image when its head was trained."""
        return self._setting("view", "whole")

    @property
    def vqa_split(self) -> str:
        """How VQA was split when its head was trained."""
        return self._setting("vqa_split", "published")

    def _setting(self, name: str, otherwise: str) -> str:
        """Of the run that it was trained in."""
        run = self.about.get("run")
        return str(run.get(name, otherwise)) if isinstance(run, dict) else otherwise

    def data(self, given: tuple[str, ...] = ()) -> tuple[str, ...]:
        """``--data`` as given, else what the checkpoint was trained on, else the built-in data set, which is said."""
        found = given or provenance.found_again(self.about, self.place)
        if not found:
            console.warn(f"the checkpoint does not say its data: taken to be {DEFAULT_DATA[0]}, the built-in data set")
        return found or DEFAULT_DATA

    def shapes(self, data: tuple[str, ...]) -> dict[str, Any]:
        """Options of the built-in data set that it was trained on, where that is what ``data`` names."""
        run = self.about.get("run") or {}
        return dict(run.get("shapes") or {}) if is_built_in(data) else {}


def look(path: str | Path, changes: Mapping[str, Any] | None = None) -> Start:
    """Reads headers; ``changes`` help where the shapes leave something open. Raises CheckpointError."""
    source = open_source(path)
    config = config_of(source.config, source.tensors, source.name, changes or {})
    return Start(str(path), config, source.about, source.path)
