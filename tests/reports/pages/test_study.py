from __future__ import annotations

import math

import numpy as np
import pytest

from tests.reports import fake
from tests.reports.made import arithmetic, distance, interpolation, score
from vlmerge_cli.records import Record
from vlmerge_cli.reports import paper
from vlmerge_cli.reports.document import Cell, Figure, Items, Number, Table
from vlmerge_cli.reports.figures import study_figures, study_tables
from vlmerge_cli.reports.pages import study as study_page
from vlmerge_cli.reports.study_records import Study

HALF = interpolation(0.5)
# Typed by hand: two seeds of the paper's Table 1, drops of Figure 3, a few points of Table 2.
ROWS = [
    score(40, seed=1), score(44, seed=2), score(30, seed=1, merge=HALF), score(31, seed=2, merge=HALF),
    score(38, seed=1, arch="agnostic"), score(38, seed=2, arch="agnostic"),
    score(60, "vqa", seed=1), score(62, "vqa", seed=1, finetune_seed=2), score(64, "vqa", seed=2),
    score(39, seed=1, k_seed=0.5), score(43, seed=2, k_seed=0.5),
    score(36, seed=1, k_seed=0.5, merge=HALF), score(39, seed=2, k_seed=0.5, merge=HALF),
    score(37, seed=1, k_seed=0.5, merge=interpolation(0.75)),
    score(5, seed=1, k_seed=0.5, merge=HALF, split="val"),
    score(9, seed=1, k_seed=0.5, merge=interpolation(0.75), split="val"),
    score(20, seed=1, k_seed=0.5, merge=HALF, order="after"),
    score(33, seed=1, width=32), score(21, seed=1, width=32, merge=HALF),
    distance(0.08, 0.0, seed=1), distance(0.10, 0.0, seed=2), distance(0.02, 0.5, seed=1), distance(0.03, 0.5, seed=2),
]  # fmt: skip


def cell(table: Table, row: str, column: str) -> Cell:
    names = [c.full + (" (paper)" if c.paper else "") for c in table.columns]
    found = [r for r in table.rows if r[0] == row]
    assert len(found) == 1, f"{table.name} has {[r[0] for r in table.rows]}"
    return found[0][names.index(column)]


def number(value: Cell) -> tuple[float, float | None]:
    assert isinstance(value, Number), value
    return value.mean, value.spread


@pytest.fixture
def study() -> Study:
    return Study(ROWS)


def test_table_1(study: Study) -> None:
    table = study_tables.table_1(study)
    mean, spread = number(cell(table, "specific, not merged (MSA)", "average TR, here"))
    assert (mean, spread) == (43.0, pytest.approx(math.sqrt(8)))  # 41 and 45
    assert number(cell(table, "merging baseline (MB)", "average IR, here"))[0] == 29.5
    assert number(cell(table, "agnostic from scratch (MAA)", "average IR, here")) == (37.0, 0.0)
    assert number(cell(table, "specific, not merged (MSA)", "VQA, here"))[0] == 62.5  # of 61 (two runs) and 64
    assert number(cell(table, "specific, not merged (MSA)", "VQA, paper (paper)")) == (75.14, None)
    assert cell(table, "merging baseline (MB)", "VQA, here") is None


def test_table_2_has_our_points_and_the_papers(study: Study) -> None:
    table = study_tables.table_2(study, "interpolation")
    assert [row[0] for row in table.rows] == ["0 (l only)", "0.25", "0.5", "0.75", "1 (v only)", "not merged"]
    assert number(cell(table, "0.5", "average TR, here")) == (38.5, pytest.approx(np.std([37, 40], ddof=1)))
    assert number(cell(table, "0.75", "average TR, here")) == (38.0, None)
    assert number(cell(table, "0.75", "average IR, paper (paper)")) == (72.30, None)
    assert number(cell(table, "not merged", "average IR, here"))[0] == 40.0
    assert "retrieval 0.75" in table.note  # chosen on the validation split
    gammas = Study([score(1, k_seed=0.5, merge={"method": "regmean", "settings": {"gamma": 0.9}})])
    assert [row[0] for row in study_tables.table_2(gammas, "regmean").rows][3:5] == ["0.75", "0.9"]


def test_ours_of_table_3_and_4_is_the_chosen_alpha() -> None:
    rows = [
        score(value, "nlvr2", k_seed=0.5, merge=interpolation(alpha), split=split)
        for alpha, split, value in ((0.5, "val", 60), (0.75, "val", 50), (0.5, "test", 58), (0.75, "test", 70))
    ]
    table = study_tables.table_3(Study(rows))
    assert number(cell(table, "seed phase, then merged (ours)", "NLVR², here"))[0] == 58
    assert number(cell(table, "merging baseline (MB)", "NLVR², paper (paper)"))[0] == 52.55
    assert "classification, here" not in [column.full for column in table.columns]  # no record: the paper's alone
    narrow = study_tables.table_4(Study(ROWS))
    assert "width 32" in narrow.title
    assert number(cell(narrow, "merging baseline (MB)", "retrieval, TR, here"))[0] == 22


def test_table_5_and_its_correlations(study: Study) -> None:
    table = study_tables.table_5(study)
    assert number(cell(table, "TSSD", "K 0 %, here")) == (pytest.approx(0.09), pytest.approx(math.sqrt(2) / 100))
    assert number(cell(table, "TSSD", "K 75 %, paper (paper)")) == (0.006, None)
    assert number(cell(table, "drop, retrieval fine-tuned", "K 0 %, here"))[0] == 11.5  # of 10 and 13
    assert number(cell(table, "drop, retrieval fine-tuned", "K 50 %, here"))[0] == 3.5  # of 3 and 4
    assert number(cell(table, "drop, retrieval fine-tuned", "K 25 %, paper (paper)"))[0] == 4.50
    assert number(cell(table, "TSSD", "r with the drop, fine-tuned, each seed"))[0] == pytest.approx(1)
    together = np.corrcoef([0.08, 0.10, 0.02, 0.03], [10, 13, 3, 4])[0, 1]
    assert number(cell(table, "TSSD", "r with the drop, fine-tuned, all points"))[0] == pytest.approx(together)
    assert cell(table, "L2", "r with the drop, fine-tuned, all points") is None  # L2 does not vary
    assert cell(table, "TSSD", "r with the drop, zero-shot, each seed") is None


def test_footnote_4_and_widths(study: Study) -> None:
    table = study_tables.finetuned_then_merged(study)
    assert [row[0] for row in table.rows] == ["50 %"]
    assert number(cell(table, "50 %", "retrieval, fine-tuned, then merged"))[0] == 20
    assert number(cell(table, "50 %", "retrieval, merged, then fine-tuned"))[0] == 37.5
    lost = study_tables.widths(study)
    assert number(cell(lost, "0 %", "retrieval, width 32"))[0] == 12
    assert number(cell(lost, "0 %", "retrieval, width 64"))[0] == 11.5


def test_the_papers_drops_are_its_scores() -> None:
    """Table 5's drops are those of Table 1 and of Table 2 at 0.5."""
    drop = paper.TABLE_1["MSA"].mean_recall - paper.TABLE_1["MB"].mean_recall
    assert drop == pytest.approx(paper.DROP[0], abs=5e-3)
    before = paper.TABLE_2["interpolation"][0.5].mean_recall + paper.DROP[2]
    assert before == pytest.approx(paper.FIGURE_3_RETRIEVAL["before"][0.5])
    assert paper.TABLE_2["interpolation"][0.5] == paper.TABLE_2["arithmetic"][0.5]


def shown(figure: Figure | None, title: str) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    assert figure is not None
    (panel,) = (panel for panel in figure.panels if panel.title == title)
    return {line.label: (line.x, line.y) for line in panel.lines}


def test_figures_show_the_means(study: Study) -> None:
    lines = shown(study_figures.figure_3(study), "retrieval")
    assert lines == {"before merging": ((0, 50), (42, 41)), "after merging": ((0, 50), (30.5, 37.5))}
    lost = shown(study_figures.figure_3(study), "What merging loses")
    assert lost["lost, retrieval"] in (((0, 50), (11.5, 3.5)), ((0, 25, 50, 75), paper.DROP))
    curve = shown(study_figures.settings(study), "interpolation, retrieval")
    assert curve == {"merged": ((0.5, 0.75), (37.5, 37))}
    scatter = shown(study_figures.scatter(study), "TSSD, r = 0.999")
    assert scatter["seed 1"] == ((0.02, 0.08), (3, 10))


def test_heat_maps_are_means_over_seeds_with_gaps() -> None:
    rows = [score(1), score(1, k_seed=0.5)]
    rows += [distance(0.1, 0.0, 1, "layers.10"), distance(0.3, 0.0, 2, "layers.10"), distance(0.5, 0.5, 1, "layers.2")]
    figure = study_figures.heat(Study(rows))
    assert figure is not None
    heat = figure.panels[-1].heat
    assert heat is not None
    assert heat.rows == ("layer 2", "layer 10")
    assert heat.columns == ("0 %", "50 %")
    assert heat.values[1][0] == pytest.approx(0.2)
    assert math.isnan(heat.values[0][0])


def test_a_curve_is_the_seed_phase_and_then_the_models_own() -> None:
    def curve(stage: str, arch: str, k: float, step: int, loss: float, seed: int = 1) -> Record:
        at = {"seed": seed, "width": 64, "arch": arch, "k_seed": k, "stage": stage, "part": "train", "step": step}
        return Record("curve", at, {"loss": loss})

    rows = [
        score(1, k_seed=0.5), curve("seed", "agnostic", 0.5, 10, 8.0), curve("pretrain", "specific", 0.5, 20, 5.0),
        curve("pretrain", "specific", 0.5, 20, 7.0, seed=2), curve("pretrain", "agnostic", 0.0, 20, 9.0),
    ]  # fmt: skip
    lines = shown(study_figures.training(Study(rows)), "all objectives")
    assert lines == {"seed phase 50 %": ((10, 20), (8, 6)), "agnostic": ((20,), (9,))}


@pytest.mark.parametrize("left_out", ["score", "distance", "curve", "study", "cost", "task:vqa", "split:val", "seed:1"])
def test_whatever_is_missing_the_page_is_made_and_says_so(left_out: str) -> None:
    key, _, value = left_out.partition(":")
    rows = fake.study(seeds=(1,))
    rows += fake.costs(rows)
    kept = [r for r in rows if (str(r.at.get(key)) != value if value else r.kind != key)]
    sections = study_page.sections(kept)
    assert sections
    texts = [
        text for section in sections for block in section.blocks if isinstance(block, Items) for text in block.texts
    ]
    if not value and key != "score":
        words = {
            "distance": "No distances.",
            "curve": "No training curves.",
            "study": "No settings.",
            "cost": "No costs.",
        }
        assert words[key] in texts
    if value == "vqa":
        assert "No score of VQA, fine-tuned." in texts


def test_failures_and_costs() -> None:
    rows = [*ROWS, Record("failure", {"node": "seed1/vqa"}, {"error": "NaN at step 3"}), *fake.costs([])]
    tables = {b.name: b for s in study_page.sections(rows) for b in s.blocks if isinstance(b, Table)}
    assert tables["failures"].rows == (("seed1/vqa", "NaN at step 3"),)
    assert cell(tables["costs"], "pre-training", "minutes") == Number(8 * 95 / 60, None, 1)
    assert cell(tables["costs"], "all", "nodes") == Number(48, None, 0)
    (run,) = (s for s in study_page.sections(rows) if s.title == "What was run")
    texts = [text for block in run.blocks if isinstance(block, Items) for text in block.texts]
    assert "vlmerge 0.1.0, commit 1a2b3c4" in texts[0]
    assert "Command: vlmerge study --preset quick" in texts


def test_arithmetic_alone_gives_a_curve_of_its_own() -> None:
    rows = [score(v, k_seed=0.5, merge=arithmetic(lam)) for lam, v in ((0.25, 30), (0.5, 20))]
    assert shown(study_figures.settings(Study(rows)), "arithmetic, retrieval") == {"merged": ((0.25, 0.5), (30, 20))}
