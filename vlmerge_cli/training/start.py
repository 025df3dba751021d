"""What a checkpoint says of itself before a model is made of it: its sizes, its tokenizer, its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmerge_cli.data.answers import AnswerVocabulary
from vlmerge_cli.data.sources import BUILT_IN, parse
from vlmerge_cli.model.config import ModelConfig, preset
from vlmerge_cli.weights.torch_source import open_source
from vlmerge_cli.weights.vlmodel import config_of


@dataclass(frozen=True)
class Start:
    """A checkpoint, its configuration and what this tool stored beside the weights."""

    path: str
    config: ModelConfig
    about: Mapping[str, Any]

    @property
    def tokenizer(self) -> str:
        """The one it was trained with; for another tool's file, by the size of its vocabulary."""
        small = self.config.vocab_size <= preset("small").vocab_size
        return str(self.about.get("tokenizer") or ("bundled" if small else "bert-base-uncased"))

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

    def shapes(self, data: tuple[str, ...]) -> dict[str, Any]:
        """Options of the built-in data set that it was trained on, where that is what ``data`` names."""
        run = self.about.get("run") or {}
        return dict(run.get("shapes") or {}) if is_built_in(data) else {}


def look(path: str | Path, changes: Mapping[str, Any] | None = None) -> Start:
    """Reads headers; ``changes`` help where the shapes leave something open. Raises CheckpointError."""
    source = open_source(path)
    return Start(str(path), config_of(source.config, source.tensors, source.name, changes or {}), source.about)


def is_built_in(data: tuple[str, ...]) -> bool:
    """Whether all sources are the built-in data, with no path of that name in the way."""
    return all(parse(text).path in BUILT_IN and not Path(parse(text).path).exists() for text in data)
