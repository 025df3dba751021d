"""Figures as SVG and PNG, the same bytes for the same figure; the one file that knows matplotlib."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from vlmerge_cli.reports.document import Figure, Heat, Line, Panel

INK, PAPER, GRID = "#1c2024", "#ffffff", "#d9dce0"
#: Told apart with any kind of colour vision, on white and, lightened by the page, on black.
PALETTE = ("#0f6fa8", "#c2532d", "#3f8450", "#8456a3", "#a37a12", "#5c6670")
DPI = 200
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "vlmerge", "font.family": "DejaVu Sans", "font.size": 9,
    "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.facecolor": "none", "axes.linewidth": 0.7,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "grid.color": GRID, "grid.linewidth": 0.6, "axes.grid": True,
    "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.markersize": 5, "legend.frameon": False,
    "text.parse_math": False,
}  # fmt: skip


def available() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def files(figure: Figure) -> dict[str, bytes]:
    """The whole figure as NAME.svg and NAME.png, with a legend below."""
    with _style():
        drawn = _whole(figure)
        return {f"{figure.name}.svg": _svg(drawn), f"{figure.name}.png": _png(drawn)}


def panel_svgs(figure: Figure) -> list[str]:
    """Each panel as an ``<svg>`` element for a page: colours by the page's variables, ids that no other figure has."""
    with _style():
        return [_for_page(_one(panel, figure.across), f"{figure.name}-{n}", panel.title)
                for n, panel in enumerate(figure.panels)]  # fmt: skip


class Key(NamedTuple):
    """One line of a legend: ``color`` counts through the palette; a level goes straight across."""

    words: str
    color: int
    is_level: bool = False
    paper: bool = False
    has_mark: bool = True


def legend(figure: Figure) -> list[Key]:
    """What the lines of all panels are, each once, the paper's last."""
    panels = figure.panels
    lines = [Key(x.label, x.color, paper=x.paper, has_mark=not x.plain) for panel in panels for x in panel.lines]
    levels = [Key(x.label, x.color, True, x.paper, has_mark=False) for panel in panels for x in panel.levels]
    keys = dict.fromkeys(key for key in (*lines, *levels) if key.words)
    named = [key._replace(words=f"{key.words} (paper)") if key.paper else key for key in keys]
    return sorted(named, key=lambda key: key.paper)


def color(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _style() -> AbstractContextManager[None]:
    import matplotlib

    found: AbstractContextManager[None] = matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE})
    return found


def _whole(figure: Figure) -> Any:
    from matplotlib.figure import Figure as Drawn
    from matplotlib.lines import Line2D

    across = min(figure.across, len(figure.panels))
    down = math.ceil(len(figure.panels) / across)
    size = (2.9 * across if across > 1 else 4.6, _height(figure.panels[0], 2.5) * down + 0.5)
    drawn = Drawn(figsize=size, layout="constrained", facecolor=PAPER)
    grid = drawn.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < len(figure.panels):
            _panel(axes, figure.panels[place])
        else:
            axes.set_axis_off()
    if keys := legend(figure):
        handles = [Line2D([], [], **_look(key)) for key in keys]
        num = min(len(keys), max(2, across + 1))
        drawn.legend(handles, [key.words for key in keys], loc="outside lower center", ncols=num)
    return _settled(drawn)


def _one(panel: Panel, across: int) -> Any:
    """Axes of lines have fixed margins, so that those of all panels stand in line."""
    from matplotlib.figure import Figure as Drawn

    width = 2.6 if across > 3 else 3.3 if across == 3 else 4.2
    height = _height(panel, 2.3 if across > 3 else 2.6)
    has_words = bool(panel.bars or panel.heat)
    drawn = Drawn(figsize=(width, height), layout="constrained" if has_words else None, facecolor="none")
    _panel(drawn.subplots(), panel)
    if has_words:
        return _settled(drawn)
    left, bottom = 0.52 if panel.y_label else 0.44, 0.46 if panel.x_label or panel.x_ticks else 0.3
    drawn.subplots_adjust(left / width, bottom / height, 1 - 0.08 / width, 1 - 0.3 / height)
    return drawn


def _settled(drawn: Any) -> Any:
    """Laid out once, not again for every format."""
    drawn.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    drawn.get_layout_engine().execute(drawn)
    drawn.set_layout_engine("none")
    return drawn


def _height(panel: Panel, usual: float) -> float:
    """Of a panel in inches: room for every bar, and for every row of a heat map."""
    rows = len(panel.bars) or (len(panel.heat.rows) if panel.heat else 0)
    return max(0.24 * rows + 0.5, usual if not panel.bars else 0.0)


def _panel(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title[:1].upper() + panel.title[1:])
    axes.margins(y=0.1)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.heat is not None:
        _heat(axes, panel.heat)
        return
    if panel.bars:
        _bars(axes, panel)
        return
    for x in panel.marks:
        axes.axvline(x, color=INK, linestyle=":", linewidth=0.8)
    for level in panel.levels:
        style = (0, (2, 2)) if level.paper else (0, (6, 3))
        axes.axhline(level.y, color=color(level.color), linestyle=style, linewidth=1.1)
    for line in panel.lines:
        _line(axes, line)
    if panel.x_ticks:
        axes.set_xticks([place for place, _ in panel.x_ticks], [words for _, words in panel.x_ticks])
        axes.set_xlim(min(p for p, _ in panel.x_ticks) - 0.5, max(p for p, _ in panel.x_ticks) + 0.5)
        axes.grid(visible=False, axis="x")
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.tick_params(length=0)


def _line(axes: Any, line: Line) -> None:
    shade = color(line.color)
    if line.spread and line.plain:
        low, high = ([y + sign * s for y, s in zip(line.y, line.spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(line.x, low, high, color=shade, alpha=0.15, linewidth=0)
    elif line.spread:
        axes.errorbar(line.x, line.y, line.spread, color=shade, linestyle="none", linewidth=1.1, capsize=2)
    axes.plot(
        line.x, line.y, color=shade, marker="" if line.plain else "o",
        linestyle="none" if line.marks_only else (0, (3, 2)) if line.paper else "-",
        markerfacecolor=PAPER if line.paper else shade, linewidth=1.2 if line.paper or line.plain else None,
    )  # fmt: skip


def _heat(axes: Any, heat: Heat) -> None:
    """Cells in one colour whose opacity is the share of the largest value."""
    from matplotlib.patches import Rectangle

    largest = max((v for row in heat.values for v in row if not math.isnan(v)), default=0.0) or 1.0
    for down, row in enumerate(heat.values):
        for right, value in enumerate(row):
            share = 0.0 if math.isnan(value) else max(0.0, value / largest)
            axes.add_patch(
                Rectangle((right - 0.48, down - 0.47), 0.96, 0.94, facecolor=PALETTE[0], alpha=0.06 + 0.7 * share, lw=0)
            )
            words = "–" if math.isnan(value) else f"{value:.{heat.digits}f}"
            axes.text(right, down, words, ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(heat.columns)), heat.columns)
    axes.set_yticks(range(len(heat.rows)), heat.rows)
    axes.set(xlim=(-0.5, len(heat.columns) - 0.5), ylim=(len(heat.rows) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _bars(axes: Any, panel: Panel) -> None:
    """Bars from 0, each with its number at its end."""
    places = range(len(panel.bars))
    values = [value for _, value in panel.bars]
    axes.barh(places, values, height=0.62, color=color(panel.color), alpha=0.75, linewidth=0)
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.{panel.digits}f}", va="center", fontsize=8)
    axes.set_yticks(places, [words for words, _ in panel.bars])
    axes.set(xlim=(0, 1.22 * (max(values) or 1.0)), ylim=(len(values) - 0.5, -0.5))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


def _look(key: Key) -> dict[str, Any]:
    shade = color(key.color)
    if key.is_level:
        return {"color": shade, "linestyle": (0, (2, 2)) if key.paper else (0, (6, 3)), "linewidth": 1.1}
    if key.paper:
        return {"color": shade, "linestyle": (0, (3, 2)), "marker": "o", "markerfacecolor": PAPER, "linewidth": 1.2}
    return {"color": shade, "marker": "o" if key.has_mark else ""}


def _svg(drawn: Any) -> bytes:
    stream = io.BytesIO()
    drawn.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _png(drawn: Any) -> bytes:
    stream = io.BytesIO()
    drawn.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def _for_page(drawn: Any, prefix: str, title: str) -> str:
    """The SVG without what a page does not need: most of its size is ids, digits and line ends."""
    text = _svg(drawn).decode()
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None, "an SVG has a viewBox"
    body = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', body))
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\1{prefix}-", body).replace("xlink:href", "href")
    body = re.sub(r"\s*font-family: [^;\"]+;|\s*transform=\"rotate\(-0 [^)]*\)\"", "", body)
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", tag[0]), body)
    for shade, variable in _variables():
        body = body.replace(shade, variable)
    body = re.sub(r"\s+", " ", body).replace("> <", "><")
    while (shorter := re.sub(r"<g></g>|<defs></defs>", "", body)) != body:
        body = shorter
    head = f'<svg {box[0]} role="img" aria-labelledby="{prefix}-name" stroke-linejoin="round">'
    return f'{head}<title id="{prefix}-name">{_escaped(title)}</title>{body.strip()}</svg>'


def _variables() -> Sequence[tuple[str, str]]:
    series = [(shade, f"var(--series-{number})") for number, shade in enumerate(PALETTE)]
    return [*series, (INK, "currentColor"), (GRID, "var(--rule)"), (PAPER, "var(--page)")]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
