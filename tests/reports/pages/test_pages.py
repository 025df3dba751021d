"""The pages of sweeps and training runs: their numbers, from records typed by hand."""

from __future__ import annotations

from typing import Any

from vlmerge_cli.records import Record
from vlmerge_cli.reports import build
from vlmerge_cli.reports.document import Figure, Number, Paragraph, Section, Table
from vlmerge_cli.reports.pages import sweep, training


def point(score: float, merge: dict[str, Any] | None, **more: Any) -> Record:
    at = {"task": "retrieval", "split": "val", "finetune_steps": 0, "checkpoint": "c", "merge": merge, **more}
    return Record("sweep", at, {"mean_recall": score, "tr_1": score / 2})


def merged(method: str, **settings: Any) -> dict[str, Any]:
    return {"method": method, "settings": settings}


def blocks(section: Section, kind: type) -> list[Any]:
    return [block for block in section.blocks if isinstance(block, kind)]


def test_a_sweep() -> None:
    rows = [point(40, None)]
    rows += [point(s, merged("interpolation", alpha=a, weigh="tokens")) for a, s in ((0.0, 20), (1.0, 30), (0.5, 35))]
    (section,) = sweep.sections(rows)
    (table,), (figure,), (words,) = (blocks(section, kind) for kind in (Table, Figure, Paragraph))
    assert [column.title for column in table.columns] == ["merge", "alpha", "mean of TR and IR", "TR@1"]
    assert table.rows[0] == ("as it is", None, Number(40.0), Number(20.0))
    assert table.rows[3] == ("interpolation", Number(0.5, None, 1), Number(35.0), Number(17.5))
    (line,) = figure.panels[0].lines
    assert (line.x, line.y) == ((0.0, 0.5, 1.0), (20.0, 35.0, 30.0))
    assert figure.panels[0].levels[0].y == 40
    assert "35.00 % at alpha 0.5" in words.text
    assert "40.00 %" in words.text


def test_a_grid_of_two_options_has_a_line_for_each_value() -> None:
    rows = [point(10 * a + g, merged("regmean", gamma=g, ridge=a)) for a in (0.0, 1.0) for g in (0.0, 0.5, 1.0)]
    (section,) = sweep.sections(rows)
    (figure,) = blocks(section, Figure)
    assert [line.label for line in figure.panels[0].lines] == ["ridge 0", "ridge 1"]
    assert figure.panels[0].lines[1].y == (10.0, 10.5, 11.0)


def test_one_point_words_and_other_ways_of_scoring() -> None:
    rows = [
        point(1, merged("interpolation", alpha="auto")), point(2, merged("interpolation", alpha=0.5)),
        point(3, merged("arithmetic", **{"lambda": 0.5}), finetune_steps=50),
    ]  # fmt: skip
    first, second = sweep.sections(rows)
    assert blocks(first, Figure) == blocks(second, Figure) == []
    assert "alpha 0.5" in blocks(first, Paragraph)[0].text
    assert "after 50 steps" in second.title
    made = build.document(rows)
    assert len({table.name for table in made.tables()}) == 2


def row(kind: str, step: int, phase: str = "finetune", **values: float) -> Record:
    return Record(kind, {"phase": phase, "step": step}, values)


def test_a_training_run() -> None:
    rows = [
        row("train", 5, loss=4.0, soft_score=0.1, lr=1e-3), row("train", 10, loss=3.0, soft_score=0.2, lr=0.0),
        row("validation", 5, accuracy=60.0, soft_score=61.0), row("validation", 10, accuracy=55.0, soft_score=56.0),
    ]  # fmt: skip
    ended, curves = training.sections(rows)
    (table,) = blocks(ended, Table)
    assert table.rows[0] == ("accuracy", Number(55.0), Number(10, None, 0), Number(60.0), Number(5, None, 0))
    panels = {panel.title: panel for figure in blocks(curves, Figure) for panel in figure.panels}
    assert panels["loss"].lines[0].y == (4.0, 3.0)
    # A share of 1 and percent do not share an axis.
    assert {"soft score, training", "soft score, validation"} <= set(panels)
    assert panels["learning rate"].lines[0].y == (1e-3, 0.0)


def test_the_best_loss_is_the_lowest_and_phases_are_marked() -> None:
    rows = [
        row("validation", 10, "seed", loss=3.0, itc_accuracy=0.2),
        row("train", 10, "seed", loss=3.1, itc_accuracy=0.25),
        row("validation", 20, "pretrain", loss=2.0, itc_accuracy=0.5), row("validation", 30, "pretrain", loss=2.5),
    ]  # fmt: skip
    ended, curves = training.sections(rows)
    losses = {cells[0]: cells for cells in blocks(ended, Table)[0].rows}
    assert losses["loss"][3:] == (Number(2.0, None, 4), Number(20, None, 0))
    assert losses["loss"][1] == Number(2.5, None, 4)
    panels = {panel.title: panel for figure in blocks(curves, Figure) for panel in figure.panels}
    assert panels["loss"].marks == (10.0,)
    assert [line.label for line in panels["ITC accuracy"].lines] == ["training", "validation"]
    assert training.subtitle(rows) == "30 steps (seed, then pretrain)."


def test_a_run_that_was_stopped_before_validation() -> None:
    (ended, _) = training.sections([row("train", 5, loss=4.0)])
    assert blocks(ended, Table)[0].rows == (("loss", Number(4.0, None, 4), Number(5, None, 0), Number(4.0, None, 4),
                                             Number(5, None, 0)),)  # fmt: skip


def test_a_folder_with_several_kinds_of_record_has_the_sections_of_all() -> None:
    made = build.document([point(1, merged("interpolation", alpha=0.5)), row("train", 5, loss=4.0)])
    assert made.title == "A sweep over merges"
    assert [section.title for section in made.sections][1:] == ["Where it ended", "Curves"]
