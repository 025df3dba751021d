"""The folder of each part of the built-in data set, in the cache: made when it is first needed."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from vlmerge_cli import ranks
from vlmerge_cli.data.shapes.options import VERSION, Part, ShapesOptions
from vlmerge_cli.data.shapes.parts import write
from vlmerge_cli.errors import DataError
from vlmerge_cli.outputs.whole import cache_folder, whole_folder

MANIFEST = "manifest.json"


def folder(options: ShapesOptions, part: Part, root: Path | None = None) -> Path:
    """The folder of one part, below ``root`` (the cache folder); made first if it is not there.

    Rank 0 makes it and the others wait. Raises DataError if a folder of that name holds something else.
    """
    digest = blake2b(options.manifest().encode(), digest_size=4).hexdigest()
    name = f"{options.variant}-v{VERSION}-{options.image_px}px-{digest}"
    final = (root or cache_folder()) / name / part
    if not final.is_dir():
        if ranks.is_main():
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
