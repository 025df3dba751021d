"""What the built-in data set is made of, and the folder of each part of it, made when first needed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, get_args

from vlmerge_cli import ranks
from vlmerge_cli.data.folder import cache_folder, whole_folder
from vlmerge_cli.data.samples import Kind
from vlmerge_cli.data.shapes.scenes import Variant
from vlmerge_cli.errors import DataError, UsageError

VERSION = 1  # of what is written: a change to scenes, texts or files is a new number

Part = Literal["coco", "shards", "nlvr2", "classes", "ade20k"]
PART_OF: dict[Kind, Part] = {
    "pairs": "coco", "questions": "coco", "statements": "nlvr2", "labels": "classes", "masks": "ade20k",
}  # fmt: skip
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShapesOptions:
    """``train``, ``val`` and ``test`` are images; ``num_things`` the least and the most things in one."""

    variant: Variant = "shapes"
    image_px: int = 32
    train: int = 8000
    val: int = 500
    test: int = 500
    num_things: tuple[int, int] = (1, 4)
    captions_per_image: int = 5
    questions_per_image: int = 4
    shard_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = self.num_things
        if not 1 <= least <= most <= 4:
            raise UsageError(f"num_things {self.num_things} is not within 1 to 4", fix="e.g. (1, 4)")
        if self.variant not in get_args(Variant):
            raise UsageError(f"no variant '{self.variant}'", fix="choose one of: shapes, digits")
        for name in ("image_px", "train", "val", "test"):
            if getattr(self, name) < 8:
                raise UsageError(f"{name} is {getattr(self, name)}", fix="use 8 or more")

    def num_images(self) -> dict[str, int]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def manifest(self) -> str:
        return json.dumps({"version": VERSION, "options": asdict(self)}, sort_keys=True, indent=1) + "\n"


def folder(options: ShapesOptions, part: Part, root: Path | None = None) -> Path:
    """The folder of one part, below ``root`` (the cache folder); made first if it is not there.

    Rank 0 makes it and the others wait. Raises DataError if a folder of that name holds something else.
    """
    digest = blake2b(options.manifest().encode(), digest_size=4).hexdigest()
    name = f"{options.variant}-v{VERSION}-{options.image_px}px-{digest}"
    final = (root or cache_folder()) / name / part
    if not final.is_dir():
        if ranks.is_main():
            from vlmerge_cli.data.shapes.writer import write

            with whole_folder(final) as made:
                write(options, part, made)
                (made / MANIFEST).write_text(options.manifest(), encoding="utf-8")
        ranks.barrier()
    try:
        found = (final / MANIFEST).read_text(encoding="utf-8")
    except OSError:
        found = ""
    if found != options.manifest():
        raise DataError("not the data set that was asked for", where=str(final), fix="remove that folder")
    return final
