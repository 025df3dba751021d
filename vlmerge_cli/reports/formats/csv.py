"""Tables and verdicts as CSV: one file a table, twelve digits, spreads in columns of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from vlmerge_cli.reports.document import Column, Number, Table, Verdict


def table_csv(table: Table) -> str:
    """What has no record is empty."""
    head: list[str] = []
    columns: list[tuple[int, bool]] = []
    for place, column in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        head.append(_name(column))
        columns.append((place, False))
        if any(isinstance(cell, Number) and cell.spread is not None for cell in cells):
            head.append(f"{_name(column)}, spread")
            columns.append((place, True))
    return _written(head, ([_text(row, place, spread) for place, spread in columns] for row in table.rows))


def verdicts_csv(verdicts: Iterable[Verdict]) -> str:
    """One row a finding; claims that were not measured have one row without numbers."""
    head = ["claim", "source", "verdict", "score", "finding", "difference", "standard error", "limit", "numbers"]
    rows = []
    for verdict in verdicts:
        about = [verdict.claim, verdict.source, verdict.outcome]
        rows += [
            [*about, f.score, f.outcome, _number(f.gap), _number(f.error), _number(f.least), f.numbers]
            for f in verdict.findings
        ] or [[*about, "", "", "", "", "", ""]]
    return _written(head, rows)


def _name(column: Column) -> str:
    return f"{column.full} (paper)" if column.paper and "paper" not in column.full else column.full


def _text(row: Sequence[object], place: int, spread: bool) -> str:
    cell = row[place]
    if isinstance(cell, Number):
        number = cell.spread if spread else cell.mean
        return "" if number is None else _number(number)
    return "" if spread or cell is None else _plain(str(cell))


def _plain(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _number(value: float) -> str:
    """More digits would differ between machines."""
    return f"{value:.12g}"


def _written(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
