"""From ``--data`` to a data set: its sources opened, each with its share of the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli import console
from vlmerge_cli.data.answers import AnswerVocabulary
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import has_split, open_reader
from vlmerge_cli.data.samples import Kind, Reader, Sample
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import PART_OF, ShapesOptions
from vlmerge_cli.data.source_spec import Spec, parse
from vlmerge_cli.errors import UsageError


def paths_of(specs: Sequence[str]) -> list[str]:
    """The paths that sources name."""
    return [parse(text).path for text in specs]


@dataclass(frozen=True)
class Source:
    name: str
    reader: Reader
    weight: float


@dataclass(frozen=True)
class DataSet:
    """One split of one or more sources of a kind; samples are numbered through, source after source."""

    kind: Kind
    split: str
    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return sum(len(source.reader) for source in self.sources)

    def at(self, index: int) -> tuple[int, int]:
        """Which source sample ``index`` is in, and its number there."""
        for number, source in enumerate(self.sources):
            if index < len(source.reader):
                return number, index
            index -= len(source.reader)
        raise IndexError(index)

    def __getitem__(self, index: int) -> Sample:
        """Raises BadSample."""
        source, number = self.at(index)
        return self.sources[source].reader[number]

    @property
    def vocabulary(self) -> AnswerVocabulary:
        """The answers of questions."""
        found: AnswerVocabulary = self.sources[0].reader.vocabulary  # type: ignore[attr-defined]
        return found

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of labels and masks."""
        found: tuple[str, ...] = self.sources[0].reader.class_names  # type: ignore[attr-defined]
        return found

    def image_ids(self) -> NDArray[np.int64]:
        """For each pair which image it shows, (num_pairs,), counted through all sources."""
        parts: list[NDArray[np.int64]] = []
        for source in self.sources:
            first = int(parts[-1].max()) + 1 if parts else 0
            own = getattr(source.reader, "image_ids", None)
            parts.append(first + (np.arange(len(source.reader)) if own is None else own))
        return np.concatenate(parts)

    def only(self, indices: Sequence[int] | NDArray[np.int64]) -> DataSet:
        """These samples, in this order, as a data set of their own."""
        name = "+".join(source.name for source in self.sources)
        chosen = Chosen(self, np.asarray(indices, np.int64))
        return replace(self, sources=(Source(name, chosen, 1.0),))  # type: ignore[arg-type]

    def images(self) -> DataSet:
        """Each image of pairs once (its first pair), in order: for retrieval."""
        return self.only(np.unique(self.image_ids(), return_index=True)[1])


@dataclass(frozen=True)
class Chosen:
    """Some samples of a data set, as a reader."""

    data: DataSet
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.data[int(self.indices[index])]

    def __getattr__(self, name: str) -> Any:
        if name in ("vocabulary", "class_names"):
            return getattr(self.data, name)
        if name == "image_ids":
            return self.data.image_ids()[self.indices]
        raise AttributeError(name)


def open_data(
    specs: Sequence[str],
    kind: Kind,
    split: str,
    bad: BadSamples,
    *,
    shapes: ShapesOptions | None = None,
    **options: Any,
) -> DataSet:
    """Open every source of ``--data``; without any weight each is as much of the mixture as it has samples.

    ``shapes`` are the options of the built-in data set, made first if need be; ``options`` are handed to the
    readers that know them (``check``, ``restval``, ``answers``, ``num_answers``, ...). A source whose format has
    no such split (Visual Genome has only train) is left out where others have it, and named. Raises UsageError
    for a spec that cannot be read, DataError for a source that cannot be used.
    """
    parsed = [parse(text) for text in specs] or [Spec("shapes", "shapes")]
    weighted = [spec for spec in parsed if spec.weight is not None]
    if weighted and len(weighted) < len(parsed):
        without = next(spec.name for spec in parsed if spec.weight is None)
        raise UsageError(f"--data {without} has no weight and others have", fix="give all a weight, or none")
    paths = {spec: _path_of(spec, kind, shapes or ShapesOptions()) for spec in parsed}
    having = [spec for spec in parsed if has_split(paths[spec], kind, split)]
    if having and len(having) < len(parsed):
        left_out = ", ".join(spec.name for spec in parsed if spec not in having)
        console.say(f"no split '{split}' in {left_out}: left out there")
    sources = []
    for spec in having or parsed:
        own = BadSamples(bad.max_ratio, bad.max_examples, bad.fix)
        reader = open_reader(paths[spec], kind, split, own, **options)
        bad.include(own)
        sources.append(Source(spec.name, reader, spec.weight or float(len(reader))))
    return DataSet(kind, split, tuple(sources))


def _path_of(spec: Spec, kind: Kind, shapes: ShapesOptions) -> Path:
    """Where a source is; the built-in data set is made if need be."""
    path = Path(spec.path)
    if spec.is_built_in:
        return folder(replace(shapes, variant=spec.path), PART_OF[kind])  # type: ignore[arg-type]
    return path
