"""What the built-in data set is made of: its parts, and the settings of each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from vlmerge_cli.data.samples import Kind
from vlmerge_cli.data.shapes.scenes import Variant
from vlmerge_cli.errors import UsageError

VERSION = 1  # of what is written: a change to scenes, texts or files is a new number

Part = Literal["coco", "shards", "nlvr2", "classes", "ade20k"]
PART_OF: dict[Kind, Part] = {
    "pairs": "coco", "questions": "coco", "statements": "nlvr2", "labels": "classes", "masks": "ade20k",
}  # fmt: skip


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
