"""The picture of the README, from the records of the study: ``python -m benchmarks.before_after``."""

from __future__ import annotations

from pathlib import Path

from vlmerge_cli import records
from vlmerge_cli.reports.document import Figure, Line, Panel
from vlmerge_cli.reports.formats import drawing
from vlmerge_cli.reports.study_records import MATCHING, ZERO_SHOT, Pick, Score, Study

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "benchmarks" / "study" / "records.jsonl"
PICTURE = ROOT / "docs" / "before-after.svg"
BEFORE, AFTER = 0, 1  # colours
#: Merges of the recipe's model in words; the settings are those that validate best.
METHODS = {"plain average": ("interpolation", (0.5,)), "arithmetic": ("arithmetic", None), "RegMean": ("regmean", None)}


def figure(study: Study) -> Figure:
    """Scores over the length of the seed phase before and after, and by method."""
    panels = (
        _phases(study, ZERO_SHOT, "retrieval, zero-shot", "mean recall"),
        _phases(study, MATCHING, "matching, zero-shot", "accuracy"),
        _methods(study, ZERO_SHOT),
    )
    return Figure("before-after", "", panels, "", across=3)


def _phases(study: Study, score: Score, title: str, unit: str) -> Panel:
    def line(label: str, picks: dict[float, Pick], color: int) -> Line:
        found = {100 * k: study.values(score, pick) for k, pick in picks.items()}
        spread = tuple(values.spread or 0.0 for values in found.values())
        return Line(label, tuple(found), tuple(values.mean for values in found.values()), spread, color)

    before = {k: Pick(k_seed=k) for k in study.k_seeds()}
    after = {k: pick.merged() for k, pick in before.items()}
    lines = (line("not merged", before, BEFORE), line("merged: plain average", after, AFTER))
    return Panel(title, "seed phase, % of steps", f"{unit}, %", lines)


def _methods(study: Study, score: Score) -> Panel:
    half = study.recipe
    bars = [("not merged", study.values(score, half).mean)]
    for words, (method, among) in METHODS.items():
        best = study.best(score, half, method, among)
        assert best is not None, f"no {method} in the records"
        bars.append((words, study.values(score, best).mean))
    return Panel("retrieval, by method", bars=tuple(bars), digits=1, color=AFTER)


if __name__ == "__main__":
    PICTURE.write_bytes(drawing.files(figure(Study(records.read(RECORDS))))["before-after.svg"])
