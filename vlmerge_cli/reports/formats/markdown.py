"""A report as Markdown, with links to its figures; the paper's numbers are in italics."""

from __future__ import annotations

from vlmerge_cli.reports.document import (
    Block,
    Cell,
    Column,
    Document,
    Figure,
    Items,
    Number,
    Paragraph,
    Table,
    Verdicts,
)  # fmt: skip

MISSING = "–"


def render(document: Document, with_figures: bool = True) -> str:
    """The whole file; figures are linked as ``figures/NAME.svg``, or said not to be drawn."""
    parts = [f"# {document.title}", _plain(document.subtitle)]
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", *(_block(block, with_figures) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, with_figures: bool) -> str:
    match block:
        case Paragraph():
            return _plain(block.text)
        case Items():
            return "\n".join(f"- {_plain(text)}" for text in block.texts)
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, with_figures)
        case Verdicts():
            return _verdicts(block)


def _table(table: Table) -> str:
    lines = [_row([_head(column) for column in table.columns])]
    lines.append(_row(["---", *["---:"] * (len(table.columns) - 1)]))
    lines += [_row([_cell(c, column) for c, column in zip(row, table.columns, strict=True)]) for row in table.rows]
    note = f"\n\n{_plain(table.note)}" if table.note else ""
    return f"### {_plain(table.title)}\n\n" + "\n".join(lines) + note


def _head(column: Column) -> str:
    words = f"{column.group}: {column.title}" if column.group else column.title
    return f"*{_safe(words)}*" if column.paper else _safe(words)


def _cell(cell: Cell, column: Column) -> str:
    text = MISSING if cell is None else _safe(str(cell))
    return f"*{text}*" if column.paper and isinstance(cell, Number) else text


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(figure: Figure, drawn: bool) -> str:
    picture = f"![{_plain(figure.alt)}](figures/{figure.name}.svg)" if drawn else f"(not drawn) {figure.alt}"
    return "\n\n".join(part for part in (f"### {_plain(figure.title)}", picture, _plain(figure.note)) if part)


def _verdicts(block: Verdicts) -> str:
    lines = []
    for verdict in block.verdicts:
        lines.append(f"- **{verdict.outcome}**: {verdict.claim} ({verdict.source})")
        lines += [f"  - {finding}" for finding in verdict.findings]
    return "\n".join(lines)


def _safe(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def _plain(text: str) -> str:
    """A text that is no link and no element of a page."""
    return text.replace("<", "&lt;").replace("[", "\\[").replace("]", "\\]")
