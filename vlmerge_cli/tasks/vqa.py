"""VQAv2: one of the frequent answers to a question about an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from vlmerge_cli.data.answers import normalise
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.samples import Question
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.steps.evaluation import Evaluation, Scores, image_of, percent, text_of
from vlmerge_cli.steps.passes import Outcome, Passes
from vlmerge_cli.tasks.task import Task

ENOUGH = 3  # other annotators who say the same


class Vqa(Task):
    """Joint pass, pooled, a two-layer head; binary cross-entropy with soft targets. Source: paper section 5."""

    name = head = "vqa"
    kind = "questions"
    served_by = ("vqa",)
    main = "accuracy"
    has_predictions = True
    published: ClassVar[dict[str, Any]] = {  # paper Table 6 and the published configuration
        "image_px": 480, "batch_size": 128, "epochs": 10, "optimizer.lr": 3e-5, "optimizer.warmup": 0.1,
        "optimizer.head_multiplier": 10.0, "drop": 0.15,
    }  # fmt: skip
    built_in: ClassVar[dict[str, Any]] = {
        "steps": 400,
        "batch_size": 64,
        "optimizer.lr": 1e-3,
        "optimizer.head_multiplier": 3.0,
    }

    def sizes(self, data: DataSet) -> dict[str, int]:
        return {"num_answers": len(data.vocabulary)}

    def loss(self, passes: Passes) -> Outcome:
        """Binary cross-entropy, summed over answers and averaged over questions."""
        logits = passes.model.vqa(passes.matched())  # (B, answers)
        target = passes.batch.target
        assert target is not None, "vqa needs soft targets"
        loss = functional.binary_cross_entropy_with_logits(logits, target.to(logits)) * logits.shape[1]
        soft = target.gather(1, logits.argmax(1, keepdim=True)).mean()
        return Outcome(loss, {"soft_score": soft})

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """Official accuracy and soft score in percent, by answer and question type; answers are predictions."""

        def answer(batch: Batch) -> Tensor:
            model = evaluation.model
            return model.vqa(model.fuse(text_of(model, batch), image_of(model, batch))).argmax(1)

        rows, labels = evaluation.collect(answer)
        vocabulary = evaluation.data.vocabulary
        judged, soft = [], 0.0
        predictions = []
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            question = evaluation.data[row]
            assert isinstance(question, Question), question
            said = vocabulary.labels[label]
            predictions.append({"question_id": question.question_id, "answer": said})
            if question.answers:
                judged.append((question, official_accuracy(said, question.answers)))
                soft += vocabulary.scores(question.answers).get(label, 0.0)
        scores: dict[str, float] = {}
        if judged:
            scores["accuracy"] = percent(sum(score for _, score in judged), len(judged))
            scores["soft_score"] = percent(soft, len(judged))
        groups = {
            what: _by((getattr(question, what), score) for question, score in judged)
            for what in ("answer_type", "question_type")
        }
        groups = {what: rows for what, rows in groups.items() if set(rows) - {""}}
        return Scores(len(rows), scores, groups, predictions)


def official_accuracy(said: str, answers: Sequence[str]) -> float:
    """mean over annotators of min(1, others who said the same / 3), in [0, 1].

    As the benchmark's own evaluation has it: each annotator is left out in turn, and both sides are normalised
    unless all annotators wrote the same. Source: Antol et al., 2015, section 4, and its evaluation code.
    """
    truth = [_plain(answer) for answer in answers]
    said = _plain(said)
    if len(set(truth)) > 1:
        truth, said = [normalise(answer) for answer in truth], normalise(said)
    same = [answer == said for answer in truth]
    return sum(min(1.0, (sum(same) - one) / ENOUGH) for one in same) / len(same)


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _by(scores: Iterable[tuple[str, float]]) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for group, score in scores:
        found[group].append(score)
    return {
        group: {"accuracy": percent(sum(own), len(own)), "num_questions": len(own)}
        for group, own in sorted(found.items())
    }
