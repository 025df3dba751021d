"""What a search has found, as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

from vlmerge_cli.data.images import decoded, opened
from vlmerge_cli.data.samples import FileImage
from vlmerge_cli.inference.vectors import Found

SIDE_PX = 192

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2rem; background: Canvas; color: CanvasText;
        color-scheme: light dark; }}
.found {{ display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }}
figure {{ margin: 0; width: {side}px; overflow-wrap: anywhere; }}
img {{ width: {side}px; height: {side}px; object-fit: contain; background: #8882; }}
</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""


def page(found: Mapping[str, Sequence[Found]], checkpoint: str) -> str:
    """A heading for each text, under it its pictures as small copies, with cosines and paths."""
    sections = "\n".join(_section(text, rows) for text, rows in found.items())
    return _PAGE.format(title=html.escape(f"Found by {checkpoint}"), sections=sections, side=SIDE_PX)


def _section(text: str, rows: Sequence[Found]) -> str:
    items = "\n".join(_item(row) for row in rows)
    return f'<h2>{html.escape(text)}</h2>\n<ol class="found">\n{items}\n</ol>'


def _item(row: Found) -> str:
    name = html.escape(row.image)
    picture = f'<img src="{_small(row.image)}" alt="{name}">'
    return f"<li><figure>{picture}<figcaption>{row.cosine:.3f} {name}</figcaption></figure></li>"


def _small(path: str) -> str:
    image = FileImage(path)
    picture = opened(image)
    picture.draft("RGB", (SIDE_PX, SIDE_PX))
    picture = decoded(image, picture)
    picture.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
