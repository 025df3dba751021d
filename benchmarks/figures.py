"""The figure of benchmarks/README.md, from the newest records: works beside their peers, time and memory by size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.latest import fit, growth, latest, times
from vlmerge_cli import console

FIGURE = Path(__file__).with_name("figure.svg")
#: A colour each for merge and distance; dashed: one thread.
LINES = {
    "merge, 1 thread": ("#1f6fb2", "--"),
    "merge, 2 threads": ("#1f6fb2", "-"),
    "distance, 1 thread": ("#c2562d", "--"),
    "distance, 2 threads": ("#c2562d", "-"),
}
#: Parts whose rows are held against their first, and the colours of works.
WORKS = ("merge", "distance", "sums", "solve")
COLOURS = ("#1f6fb2", "#5a9bd4", "#c2562d", "#7a9a3a", "#4f7a28", "#8860a8")


def draw(path: Path) -> None:
    """Write the figure; without matplotlib say so and leave the old one."""
    try:
        import matplotlib
    except ImportError:
        console.say("no matplotlib: the figure is left out")
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    style = {"svg.hashsalt": "vlmerge", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False}  # fmt: skip
    with matplotlib.rc_context(style):
        figure, (beside, time, memory) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
        _draw_works(beside)
        _draw_growth(time, memory)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _draw_works(axes: Any) -> None:
    """Wall time of every row in that of vlmerge's own, which is the first of its work."""
    bars: list[tuple[str, float, str]] = []
    works: dict[str, str] = {}
    for name in WORKS:
        rows = latest(name)
        for row in rows:
            work = str(row.at["work"])
            first = next(one for one in rows if one.at["work"] == work)
            colour = works.setdefault(work, COLOURS[len(works) % len(COLOURS)])
            if row is not first:
                bars.append((f"{work}: {row.at['row']}", times(row, first), colour))
    names, lengths, colours = zip(*bars, strict=True) if bars else ((), (), ())
    places = range(len(bars))
    axes.barh(places, [length - 1 for length in lengths], left=1, color=colours)
    for place, length in zip(places, lengths, strict=True):
        axes.annotate(f"{length:.2g}", (max(length, 1), place), (3, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.6)
    if bars:
        axes.set_xscale("log")
        axes.set_xlim(right=2 * max(lengths))
    axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("Wall time, vlmerge = 1 (logarithmic)")


def _draw_growth(time: Any, memory: Any) -> None:
    for row, (colour, style) in LINES.items():
        sizes, seconds, peaks = growth(row)
        if len(sizes) < 2:
            continue
        line = fit(sizes, seconds)
        time.plot(sizes, seconds, "o", color=colour, fillstyle="none" if style == "--" else "full")
        ends = [sizes[0], sizes[-1]]
        fitted = [line.start + line.slope * end for end in ends]
        time.plot(ends, fitted, style, color=colour, label=f"{row}: {line.slope:.2f} s/GB, R² {line.r_squared:.3f}")
        memory.plot(sizes, peaks, "o" + style, color=colour, label=row)
    for axes, title in ((time, "Wall time, s"), (memory, "Peak memory, MiB")):
        axes.set_title(title)
        axes.set_xlabel("checkpoint, GB")
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)


if __name__ == "__main__":
    draw(FIGURE)
