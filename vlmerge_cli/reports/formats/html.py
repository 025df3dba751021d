"""A report as one HTML page that needs nothing else: style, script and figures are inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from math import isnan

from vlmerge_cli.reports.document import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNMEASURED,
    Block,
    Cell,
    Column,
    Document,
    Figure,
    Finding,
    Items,
    Number,
    Paragraph,
    Section,
    Table,
    Verdict,
    Verdicts,
)  # fmt: skip
from vlmerge_cli.reports.formats.drawing import Key

#: A table with more columns stands closer, spreads below their means.
_WIDE = 8
OUTCOMES = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided", UNMEASURED: "unmeasured"}  # classes
#: Nothing may be fetched: the browser itself holds it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_PLOT = (150, 12)  # size of the small interval beside a finding


def render(document: Document, drawn: Mapping[str, Sequence[str]], legends: Mapping[str, Sequence[Key]]
           ) -> str:  # fmt: skip
    """``drawn`` has the panels of each figure as SVG elements, ``legends`` the keys to its lines.

    A figure without panels is named and not shown.
    """
    folder = files("vlmerge_cli.reports.formats")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = [_section(section, drawn, legends) for section in document.sections]
    links = [f'<li><a href="#{_slug(section.title)}">{escape(section.title)}</a></li>' for section in document.sections]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(document.title)}</title>
<style>
{style}</style>
</head>
<body>
<header class="top">
<h1>{escape(document.title)}</h1>
<p class="lead">{escape(document.subtitle)}</p>
{_tally(document)}
</header>
<div class="columns">
<nav aria-label="Sections">
<ol>
{chr(10).join(links)}
</ol>
</nav>
<main>
{chr(10).join(parts)}
</main>
</div>
<script>
{script}</script>
</body>
</html>
"""


def _tally(document: Document) -> str:
    """How many claims came to which end."""
    counts = Counter(verdict.outcome for verdict in document.verdicts())
    chips = [f"<li>{_chip(outcome)} <b>{counts[outcome]}</b></li>" for outcome in OUTCOMES if counts[outcome]]
    return f'<ul class="tally" aria-label="Claims by verdict">{"".join(chips)}</ul>' if chips else ""


def _section(section: Section, drawn: Mapping[str, Sequence[str]], legends: Mapping[str, Sequence[Key]]) -> str:
    blocks = [_block(block, drawn, legends) for block in section.blocks]
    slug = _slug(section.title)
    head = f'<section id="{slug}" aria-labelledby="{slug}-title">\n<h2 id="{slug}-title">{escape(section.title)}</h2>'
    return "\n".join([head, *blocks, "</section>"])


def _block(block: Block, drawn: Mapping[str, Sequence[str]], legends: Mapping[str, Sequence[Key]]
           ) -> str:  # fmt: skip
    match block:
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Items():
            return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in block.texts) + "</ul>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, drawn.get(block.name, ()), legends.get(block.name, ()))
        case Verdicts():
            cards = "\n".join(_card(verdict) for verdict in block.verdicts)
            return f'<p><button type="button" class="open-all">Show all numbers</button></p>\n{cards}'


def _table(table: Table) -> str:
    title = f'<h3 id="{table.name}-title">{escape(table.title)}</h3>'
    body = "\n".join(_row(row, table.columns) for row in table.rows)
    note = f'\n<p class="note">{escape(table.note)}</p>' if table.note else ""
    kind = "table wide" if len(table.columns) > _WIDE else "table"
    return f"""<div class="{kind}" id="{table.name}">
{title}
<div class="scroll" tabindex="0" role="region" aria-labelledby="{table.name}-title">
<table aria-labelledby="{table.name}-title">
<thead>
{_head(table)}
</thead>
<tbody>
{body}
</tbody>
</table>
</div>{note}
</div>"""


def _head(table: Table) -> str:
    """Groups above, where there are any, and below the headings that sort."""
    columns = table.columns
    texts = [all(isinstance(row[place], str) for row in table.rows) for place in range(len(columns))]
    leaves = "".join(_leaf(column, is_text) for column, is_text in zip(columns, texts, strict=True))
    if not any(column.group for column in columns):
        return f"<tr>{leaves}</tr>"
    groups = []
    for group, members in groupby(columns, key=lambda column: column.group):
        num = len(list(members))
        cell = f'<th scope="colgroup" colspan="{num}">{escape(group)}</th>' if group else f'<td colspan="{num}"></td>'
        groups.append(cell)
    return f'<tr class="groups">{"".join(groups)}</tr>\n<tr>{leaves}</tr>'


def _leaf(column: Column, is_text: bool) -> str:
    kind = ' class="paper"' if column.paper else ' class="text"' if is_text else ""
    words = escape(column.title) or "&nbsp;"
    name = f' aria-label="{escape(column.full)}"' if column.group else ""
    return f'<th scope="col"{kind} aria-sort="none"><button type="button"{name}>{words}</button></th>'


def _row(row: tuple[Cell, ...], columns: tuple[Column, ...]) -> str:
    first = f'<th scope="row"{_sort_key(row[0])}>{_shown(row[0])}</th>'
    cells = []
    for cell, column in zip(row[1:], columns[1:], strict=True):
        kinds = [name for name, is_so in (("paper", column.paper), ("text", isinstance(cell, str))) if is_so]
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        cells.append(f"<td{kind}{_sort_key(cell)}>{_shown(cell)}</td>")
    return f"<tr>{first}{''.join(cells)}</tr>"


def _sort_key(cell: Cell) -> str:
    return f' data-value="{cell.mean!r}"' if isinstance(cell, Number) else ""


def _shown(cell: Cell) -> str:
    if cell is None:
        return '<span class="none" title="no record">–</span>'
    if isinstance(cell, str):
        return escape(cell)
    spread = "" if cell.spread is None else f" <small>±&nbsp;{cell.spread:.{cell.digits}f}</small>"
    return f"{cell.mean:.{cell.digits}f}{spread}"


def _figure(figure: Figure, panels: Sequence[str], legend: Sequence[Key]) -> str:
    head = f'<figure id="{figure.name}" aria-labelledby="{figure.name}-title">\n<h3 id="{figure.name}-title">'
    head += f"{escape(figure.title)}</h3>"
    if not panels:
        shown = '<p class="note">Not drawn: matplotlib is not installed.</p>'
    else:
        keys = "".join(f"<li>{_key(key)}{escape(key.words)}</li>" for key in legend)
        shown = f'<ul class="legend" aria-label="Legend">{keys}</ul>\n' if keys else ""
        shown += f'<div class="panels across-{min(figure.across, 4)}">\n' + "\n".join(panels) + "\n</div>"
    note = f"{figure.alt} {figure.note}".strip()
    return f"{head}\n{shown}\n<figcaption>{escape(note)}</figcaption>\n</figure>"


def _key(key: Key) -> str:
    """A small picture of a line."""
    dash = ("2 2" if key.paper else "5 3") if key.is_level else "4 2.5" if key.paper else ""
    color = f"var(--series-{key.color})"
    stroke = f' stroke-dasharray="{dash}"' if dash else ""
    fill = "var(--page)" if key.paper else color
    mark = f'<circle cx="14" cy="6" r="3" fill="{fill}" stroke="{color}"/>' if key.has_mark else ""
    line = f'<path d="M1 6H27" stroke="{color}" stroke-width="1.6"{stroke}/>'
    return f'<svg class="key" viewBox="0 0 28 12" aria-hidden="true">{line}{mark}</svg>'


def _card(verdict: Verdict) -> str:
    dots = "".join(_mark(finding.outcome) for finding in verdict.findings)
    head = (
        f"{_chip(verdict.outcome)}<span><b>{escape(verdict.claim)}</b> "
        f'<cite>{escape(verdict.source)}</cite> <span class="dots" aria-hidden="true">{dots}</span></span>'
    )
    if not verdict.findings:
        return f'<div class="verdict" id="claim-{verdict.name}"><div class="head">{head}</div></div>'
    ends = [abs(f.gap) + (0.0 if isnan(f.within) else f.within) for f in verdict.findings if not isnan(f.gap)]
    reach = max([*ends, *(abs(f.least) for f in verdict.findings)]) or 1.0
    rows = "".join(_finding(finding, reach) for finding in verdict.findings)
    return (
        f'<details class="verdict" id="claim-{verdict.name}"><summary class="head">{head}</summary>'
        f'<ul class="findings">{rows}</ul></details>'
    )


def _finding(finding: Finding, reach: float) -> str:
    kind = OUTCOMES[finding.outcome]
    return (
        f'<li class="{kind}">{_interval(finding, reach)}<span><b>{escape(finding.score)}</b> '
        f"<em>{escape(finding.outcome.removesuffix(' within the spread'))}</em> {escape(finding.numbers)}</span></li>"
    )


def _interval(finding: Finding, reach: float) -> str:
    """The difference and how far to both sides nothing is decided; the upright line is the limit."""
    if isnan(finding.gap):
        return "<span></span>"
    width, height = _PLOT

    def x(value: float) -> float:
        return round(width / 2 + (width / 2 - 5) * value / reach, 2)

    within = 0.0 if isnan(finding.within) else finding.within
    middle = height / 2
    low, high = x(finding.gap - within), x(finding.gap + within)
    return (
        f'<svg class="interval" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<path class="limit" d="M{x(finding.least)} 0V{height}"/>'
        f'<path d="M{low} {middle}H{high}"/><circle cx="{x(finding.gap)}" cy="{middle}" r="3.2"/></svg>'
    )


def _chip(outcome: str) -> str:
    return f'<span class="chip {OUTCOMES[outcome]}">{_mark(outcome)}{escape(outcome)}</span>'


def _mark(outcome: str) -> str:
    """Told apart by its shape, not by colour alone."""
    return f'<i class="dot {OUTCOMES[outcome]}"></i>'


def _slug(title: str) -> str:
    return "part-" + "".join(sign if sign.isalnum() else "-" for sign in title.lower())
