"""CSV, Markdown and LaTeX of one small document."""

from __future__ import annotations

import csv
import io
import math

from vlmerge_cli.reports.document import (
    HOLDS,
    UNMEASURED,
    Column,
    Document,
    Figure,
    Finding,
    Items,
    Number,
    Panel,
    Paragraph,
    Section,
    Table,
    Verdict,
    Verdicts,
)  # fmt: skip
from vlmerge_cli.reports.formats import csv as csv_format
from vlmerge_cli.reports.formats import latex, markdown

TABLE = Table(
    "scores", "Scores_of 50 % | all",
    (Column("model"), Column("here", "VQA"), Column("paper", "VQA", True), Column("steps")),
    (("α = 0.5", Number(1 / 3, 0.125, 2), Number(73.94, None, 2), Number(200, None, 0)),
     ("a|b", None, None, "none")),
    "A note & more.",
)  # fmt: skip
VERDICTS = Verdicts((
    Verdict("one", "It holds.", "Table 1", HOLDS, (Finding("VQA", HOLDS, "a 2, b 1: +1.00 ± 0.50", 1.0, 0.25),)),
    Verdict("two", "Nobody knows.", "section 7", UNMEASURED, ()),
))  # fmt: skip
FIGURE = Figure("curve", "A curve", (Panel("p"),), "What is to be seen.", "A note.")
DOCUMENT = Document("Title", "Lead", (
    Section("First", (Paragraph("Words."), Items(("one", "two")), TABLE)), Section("Second", (VERDICTS, FIGURE)),
))  # fmt: skip


def test_csv_keeps_twelve_digits_and_has_spreads_where_there_are_any() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_format.table_csv(TABLE))))
    assert rows[0] == {
        "model": "α = 0.5", "VQA, here": "0.333333333333", "VQA, here, spread": "0.125", "VQA, paper": "73.94",
        "steps": "200",
    }  # fmt: skip
    assert rows[1]["VQA, here"] == rows[1]["VQA, here, spread"] == rows[1]["VQA, paper"] == ""
    assert rows[1]["steps"] == "none"


def test_csv_of_verdicts() -> None:
    first, second = csv.DictReader(io.StringIO(csv_format.verdicts_csv(VERDICTS.verdicts)))
    assert (first["verdict"], first["score"], float(first["difference"])) == (HOLDS, "VQA", 1.0)
    assert float(first["standard error"]) == 0.25
    assert (second["verdict"], second["score"], second["difference"]) == (UNMEASURED, "", "")


def test_markdown() -> None:
    text = markdown.render(DOCUMENT)
    assert "| model | VQA: here | *VQA: paper* | steps |\n| --- | ---: | ---: | ---: |" in text
    assert "| α = 0.5 | 0.33 ± 0.12 | *73.94* | 200 |" in text
    assert "| a\\|b | – | – | none |" in text
    assert "![What is to be seen.](figures/curve.svg)" in text
    assert "- **holds**: It holds. (Table 1)\n  - VQA: holds; a 2, b 1: +1.00 ± 0.50" in text
    assert "- one\n- two" in text
    assert "![" not in markdown.render(DOCUMENT, with_figures=False)


def test_latex_is_plain_ascii_with_balanced_groups() -> None:
    text = latex.render(DOCUMENT)
    assert text.isascii()
    for one, other in (("{", "}"), (r"\begin{", r"\end{")):
        assert text.count(one) == text.count(other)
    assert r"$\alpha$ = 0.5 & 0.33 $\pm$ 0.12 & \paper{73.94} & 200 \\" in text
    assert r"\multicolumn{2}{c}{VQA}" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"Scores\_of 50 \% | all. A note \& more." in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1
    assert r"\includegraphics[width=\linewidth]{figures/curve.png}" in text
    assert "includegraphics[" not in latex.render(DOCUMENT, with_figures=False)


def test_latex_knows_every_sign_of_a_report() -> None:
    assert latex.escaped("αλγ±²–×’“”−√…&%$#_{}~^\\").count("?") == 0
    assert latex.escaped("界") == "?"


def test_numbers() -> None:
    assert str(Number(1.005, None, 1)) == "1.0"
    assert str(Number(-0.5, 0.25, 3)) == "-0.500 ± 0.250"
    assert math.isnan(Finding("s", UNMEASURED, "").gap)
