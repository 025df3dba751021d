"""VQA's official accuracy on cases worked by hand, and a model's scores against the files read plainly."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.helpers import one_by_one
from vlmerge_cli.data.answers import normalise
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.vqa import Vqa, official_accuracy

YES = ["yes"] * 10


@pytest.mark.parametrize(
    ("said", "answers", "expected"),
    [
        ("yes", YES, 1.0),
        ("no", YES, 0.0),
        # k who said it: they see k-1 others, the 10-k rest see k. k=1: 9 · 1/3 / 10; k=2: (2 · 1/3 + 8 · 2/3) / 10
        ("red", ["red"] + ["blue"] * 9, 0.3),
        ("red", ["red"] * 2 + ["blue"] * 8, 0.6),
        ("red", ["red"] * 3 + ["blue"] * 7, 0.9),
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        # Annotators differ, so both sides are normalised: "Two" and "2" are one answer.
        ("2", ["Two", "two.", "2", "the two"] + ["3"] * 6, 1.0),
        ("dont know", ["don't know"] * 3 + ["yes"] * 7, 0.9),
        ("black/white", ["black, white"] * 2 + ["grey"] * 8, 0.6),
        # All wrote the same: nothing is normalised, "two" is not "2".
        ("2", ["two"] * 10, 0.0),
        (" two\n", ["two"] * 10, 1.0),
        # Fewer annotators: the rest are the others.
        ("a cat", ["cat", "dog"], 1 / 6),
    ],
)
def test_official_accuracy_by_hand(said: str, answers: list[str], expected: float) -> None:
    assert official_accuracy(said, answers) == pytest.approx(expected, abs=1e-12)


def test_scores_equal_those_of_the_files_read_plainly(
    evaluation: Callable[..., Evaluation], made: Callable[[Any], Path]
) -> None:
    asked = evaluation("vqa")
    found = Vqa().evaluate(asked)
    notes = json.loads(next(made("questions").glob("*val2014_annotations.json")).read_text())["annotations"]
    labels = asked.data.vocabulary.labels
    logits = one_by_one(asked, lambda m, b: m.vqa(m.fuse(m.text(b.text, b.text_mask), m.image(b.image))))
    said = {
        int(key): labels[int(row.argmax())] for key, row in logits.items()
    }  # fmt: skip
    assert len(said) == len(notes) == found.num_samples
    official, soft, by_type = 0.0, 0.0, defaultdict(list)
    for note in notes:
        given, mine = [row["answer"] for row in note["answers"]], said[note["question_id"]]
        soft += {0: 0, 1: 0.3, 2: 0.6, 3: 0.9}.get(Counter(given)[mine], 1.0)
        if len(set(given)) > 1:
            given, mine = list(map(normalise, given)), normalise(mine)
        left_out = [sum(other == mine for m, other in enumerate(given) if m != n) for n in range(10)]
        by_type[note["answer_type"]].append(sum(min(1, num / 3) for num in left_out) / 10)
        official += by_type[note["answer_type"]][-1]
    assert found.values["accuracy"] == pytest.approx(100 * official / len(notes))
    assert found.values["soft_score"] == pytest.approx(100 * soft / len(notes))
    for kind, scores in by_type.items():
        row = found.groups["answer_type"][kind]
        assert row["num_questions"] == len(scores)
        assert row["accuracy"] == pytest.approx(100 * sum(scores) / len(scores))
    assert found.predictions == [
        {"question_id": note["question_id"], "answer": said[note["question_id"]]} for note in notes
    ]


def test_the_loss_is_summed_over_answers_and_averaged_over_questions() -> None:
    from tests.model.conftest import build, micro
    from tests.tasks import helpers

    model = build(micro("specific", heads=("vqa",), drop_path=0.0, dropout=0.0)).double()
    data = helpers.batch(4)
    target = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)).double()
    outcome = Vqa().loss(helpers.passes(model, helpers.replace(data, target=target)))
    logits = model.vqa(model(data.text, data.text_mask, data.image)).float()
    p = torch.sigmoid(logits)
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum(1).mean()
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)
