"""The formats that can be read: one file and one line each; the first that recognises a path is taken."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.samples import Kind, Reader
from vlmerge_cli.errors import DataError

READERS = {
    "img2dataset": "vlmerge_cli.data.readers.shards:PairShards",
    "webdataset-classes": "vlmerge_cli.data.readers.shards:ClassShards",
    "karpathy": "vlmerge_cli.data.readers.karpathy:Karpathy",
    "visual-genome": "vlmerge_cli.data.readers.visual_genome:VisualGenome",
    "vqav2": "vlmerge_cli.data.readers.vqav2:VqaV2",
    "nlvr2": "vlmerge_cli.data.readers.nlvr2:Nlvr2",
    "ade20k": "vlmerge_cli.data.readers.ade20k:Ade20k",
    "class-folders": "vlmerge_cli.data.readers.classes:ClassFolders",
    "arrow-captions": "vlmerge_cli.data.readers.arrow:ArrowCaptions",
    "arrow-vqa": "vlmerge_cli.data.readers.arrow:ArrowQuestions",
    "arrow-nlvr2": "vlmerge_cli.data.readers.arrow:ArrowStatements",
}


def reader(name: str) -> type[Reader]:
    """The class of a reader in READERS."""
    module, _, attribute = READERS[name].partition(":")
    found: type[Reader] = getattr(import_module(module), attribute)
    return found


def detect(path: Path, kind: Kind) -> str:
    """The format of ``path`` that gives samples of this kind. Raises DataError if there is none."""
    others = []
    for name in READERS:
        cls = reader(name)
        if cls.recognises(path):
            if cls.kind == kind:
                return name
            others.append(f"{name} ({cls.kind})")
    if others:
        raise DataError(f"no {kind} here, only {', '.join(others)}", where=str(path))
    what = "nothing that can be read" if path.exists() or "{" in str(path) else "no such file or folder"
    raise DataError(what, where=str(path), fix=f"known formats: {', '.join(READERS)}")


def has_split(path: Path, kind: Kind, split: str) -> bool:
    """Whether the format of ``path`` has such a split at all; only one that says what it has (``splits``) has not."""
    splits: tuple[str, ...] = getattr(reader(detect(path, kind)), "splits", (split,))
    return split in splits


def open_reader(path: Path, kind: Kind, split: str, bad: BadSamples, **options: Any) -> Reader:
    """One split of the data set at ``path``, its format detected; ``options`` are the reader's own.

    Options that a reader does not have are left out, so that one set of them serves any format. Raises
    DataError if nothing there is of this kind, or more of it is bad than ``bad`` allows.
    """
    import inspect

    cls = reader(detect(path, kind))
    known = inspect.signature(cls.__init__).parameters
    opened = cls(path, split, bad, **{name: value for name, value in options.items() if name in known})
    bad.settle(len(opened), f"{path} ({split})")
    return opened
