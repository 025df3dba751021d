"""A report as one LaTeX file: booktabs tables, the PNG figures, verdicts; plain ASCII."""

from __future__ import annotations

from itertools import groupby

from vlmerge_cli.reports.document import (
    Block,
    Cell,
    Column,
    Document,
    Figure,
    Items,
    Paragraph,
    Table,
    Verdicts,
)  # fmt: skip

_HEAD = r"""\documentclass[10pt]{article}
\usepackage[a4paper, margin=2cm]{geometry}
\usepackage{booktabs, graphicx, xcolor}
\newcommand{\paper}[1]{\textcolor{gray}{\textit{#1}}}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\begin{document}
"""
_WORDS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "α": r"$\alpha$", "λ": r"$\lambda$", "γ": r"$\gamma$",
    "±": r"$\pm$", "²": r"$^2$", "–": "--", "…": r"\dots{}", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$",
    "·": r"$\cdot$", "√": r"$\sqrt{}$", "→": r"$\to$", "Σ": r"$\Sigma$", "’": "'", "“": "``", "”": "''", "−": "$-$",
    "<": r"$<$", ">": r"$>$",
    "\n": " ",
}  # fmt: skip


def render(document: Document, with_figures: bool = True) -> str:
    """The whole file; figures are named as ``figures/NAME.png``, or left out."""
    parts = [rf"\section*{{{escaped(document.title)}}}", escaped(document.subtitle)]
    for section in document.sections:
        parts.append(rf"\subsection*{{{escaped(section.title)}}}")
        parts += [_block(block, with_figures) for block in section.blocks]
    return _HEAD + "\n\n".join(part for part in parts if part) + "\n\\end{document}\n"


def escaped(text: str) -> str:
    """Signs that LaTeX takes for commands, and those beyond ASCII; what has no name here becomes ``?``."""
    return "".join(_WORDS.get(sign, sign if sign.isascii() else "?") for sign in text)


def _block(block: Block, with_figures: bool) -> str:
    match block:
        case Paragraph():
            return escaped(block.text)
        case Items():
            return _list([escaped(text) for text in block.texts])
        case Table():
            return _table(block)
        case Figure():
            return _figure(block) if with_figures else ""
        case Verdicts():
            return _list([_verdict(verdict.outcome, verdict.claim, verdict.source,
                                   [str(finding) for finding in verdict.findings])
                          for verdict in block.verdicts])  # fmt: skip


def _verdict(outcome: str, claim: str, source: str, findings: list[str]) -> str:
    head = rf"\textbf{{{escaped(outcome)}}}: {escaped(claim)} ({escaped(source)})"
    return head + (_list([escaped(text) for text in findings]) if findings else "")


def _list(items: list[str]) -> str:
    return "\n".join([r"\begin{itemize}", *(rf"\item {item}" for item in items), r"\end{itemize}"])


def _table(table: Table) -> str:
    body = [" & ".join(_cell(c, col) for c, col in zip(row, table.columns, strict=True)) + r" \\" for row in table.rows]
    lines = [
        r"\begin{table}[h!]", r"\centering\small", rf"\caption{{{escaped(f'{table.title}. {table.note}'.strip())}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule", *_groups(table.columns),
        " & ".join(_cell(column.title, column) for column in table.columns) + r" \\", r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


def _groups(columns: tuple[Column, ...]) -> list[str]:
    """The row of headings over several columns, with their rules; nothing where no column has a group."""
    if not any(column.group for column in columns):
        return []
    cells, rules, place = [], [], 1
    for group, members in groupby(columns, key=lambda column: column.group):
        num = len(list(members))
        cells.append(rf"\multicolumn{{{num}}}{{c}}{{{escaped(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + num - 1}}}")
        place += num
    return [" & ".join(cells) + r" \\", "".join(rules)]


def _cell(cell: Cell, column: Column) -> str:
    text = escaped("–" if cell is None else str(cell))
    return rf"\paper{{{text}}}" if column.paper and cell is not None else text


def _figure(figure: Figure) -> str:
    caption = escaped(f"{figure.title}. {figure.note}".strip())
    return "\n".join([
        r"\begin{figure}[h!]", r"\centering", rf"\includegraphics[width=\linewidth]{{figures/{figure.name}.png}}",
        rf"\caption{{{caption}}}", r"\end{figure}",
    ])  # fmt: skip
