"""NLVR2: is a sentence true of two images?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.samples import Statement
from vlmerge_cli.steps.evaluation import Evaluation, Scores, image_of, percent, text_of
from vlmerge_cli.steps.passes import Outcome, Passes
from vlmerge_cli.tasks.task import Task


class Nlvr2(Task):
    """Two joint passes, one an image, pooled side by side; cross-entropy. Source: paper section 5."""

    name = head = "nlvr2"
    kind = "statements"
    served_by = ("nlvr2",)
    main = "accuracy"
    has_predictions = True
    published: ClassVar[dict[str, Any]] = {  # paper Table 6 and the published configuration
        "image_px": 384, "batch_size": 128, "epochs": 10, "optimizer.lr": 5e-5, "optimizer.warmup": 0.1, "drop": 0.1,
    }  # fmt: skip
    built_in: ClassVar[dict[str, Any]] = {"steps": 400, "batch_size": 64, "optimizer.lr": 1e-3}

    def loss(self, passes: Passes) -> Outcome:
        """Cross-entropy of true and false, from the joint passes of both images."""
        target = passes.batch.target
        assert target is not None, "nlvr2 needs labels"
        logits = passes.model.nlvr2(passes.matched(), passes.matched_second())  # (B, 2)
        accuracy = (logits.argmax(1) == target).float().mean()
        return Outcome(functional.cross_entropy(logits, target), {"accuracy": accuracy})

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """Accuracy, and consistency: the share of sentences that are judged rightly in all their pairs."""

        def judge(batch: Batch) -> Tensor:
            model = evaluation.model
            text = text_of(model, batch)
            first, second = (model.fuse(text, image_of(model, batch, second)) for second in (False, True))
            return model.nlvr2(first, second).argmax(1) == 1

        rows, found = evaluation.collect(judge)
        right: dict[str, list[bool]] = defaultdict(list)
        predictions = []
        for row, said in zip(rows.tolist(), found.tolist(), strict=True):
            statement = evaluation.data[row]
            assert isinstance(statement, Statement), statement
            right[statement.group].append(said == statement.label)
            predictions.append({"identifier": statement.key, "prediction": str(said)})
        num_right = sum(sum(group) for group in right.values())
        scores = {
            "accuracy": percent(num_right, len(rows)),
            "consistency": percent(sum(all(group) for group in right.values()), len(right)),
        }
        return Scores(len(rows), scores, {}, predictions)
