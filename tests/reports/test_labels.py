from __future__ import annotations

from vlmerge_cli.reports.labels import MAIN, main_score, words
from vlmerge_cli.tasks import MEASURES, TASKS
from vlmerge_cli.tasks.task import measure


def test_main_scores_are_those_of_the_tasks() -> None:
    assert {name: measure(name).main for name in (*TASKS, *MEASURES)} == MAIN
    assert main_score("another", {"x": 1.0}) == "x"


def test_words() -> None:
    assert [words(name) for name in ("tr_1", "ir_10", "itc_accuracy", "pixel_accuracy", "miou")] == [
        "TR@1", "IR@10", "ITC accuracy", "pixel accuracy", "mIOU",
    ]  # fmt: skip
