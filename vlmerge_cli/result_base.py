"""The base of what the Python interface returns: a value that is also a document and, in a notebook, a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

#: Rows and characters that a notebook shows of a value.
MOST_ROWS, MOST_CHARACTERS = 50, 200


class Result:
    """A dataclass whose ``to_dict`` is what the command prints with ``--json``."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    def _repr_html_(self) -> str:
        return html_table(("", type(self).__name__), self.to_dict().items())


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table, everything in it escaped; long cells and tables are cut, and say so."""
    import html  # notebooks alone need it

    rows = list(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_short(cell))}</td>' for cell in row)}</tr>" for row in rows[:MOST_ROWS]
    )
    more = f"<tr><td>... {len(rows) - MOST_ROWS} more</td></tr>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{more}</tbody></table>"


def _short(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.6g}"
    if isinstance(cell, Mapping):
        text = ", ".join(f"{key} {_short(value)}" for key, value in cell.items())
    elif isinstance(cell, list | tuple):
        text = ", ".join(map(_short, cell))
    else:
        text = str(cell)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."
