"""ImageNet: which class an image is of, by the vision expert alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.samples import Labelled
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.steps.evaluation import Evaluation, Scores, image_of, percent
from vlmerge_cli.steps.passes import Outcome, Passes
from vlmerge_cli.tasks.task import Task


class Classification(Task):
    """Mean over all image tokens, one linear map; cross-entropy with smoothed labels, of mixed images with both."""

    name = head = "classification"
    kind = "labels"
    served_by = ("classification",)
    main = "top1"
    has_predictions = True
    smoothing: ClassVar[float] = 0.1
    published: ClassVar[dict[str, Any]] = {
        # BEiT-base's published fine-tuning on ImageNet-1k, of weights that saw no labels before (paper, appendix A)
        "image_px": 224, "batch_size": 1024, "epochs": 100, "optimizer.lr": 4e-3, "optimizer.warmup": 20 / 100,
        "optimizer.decay": "cosine", "optimizer.layer_decay": 0.65, "optimizer.weight_decay": 0.05,
        "optimizer.betas": (0.9, 0.999), "drop": 0.1, "augment": "beit", "view": "centre",
    }  # fmt: skip
    built_in: ClassVar[dict[str, Any]] = {"steps": 400, "batch_size": 64, "optimizer.lr": 1e-3}

    def sizes(self, data: DataSet) -> dict[str, int]:
        return {"num_classes": len(data.class_names)}

    def loss(self, passes: Passes) -> Outcome:
        """Cross-entropy with label smoothing; of a mixed image the mean of both labels', by their shares."""
        target = passes.batch.target
        assert target is not None, "classification needs labels"
        logits = passes.model.classify(passes.image, keep=passes.depth("image"))  # (B, classes)
        loss = self._smoothed(logits, target)
        if passes.batch.mix_share is not None and passes.batch.other_target is not None:
            other = self._smoothed(logits, passes.batch.other_target)
            loss = other + passes.batch.mix_share.to(loss) * (loss - other)
        loss = loss.mean()
        return Outcome(loss, {"accuracy": (logits.argmax(1) == target).float().mean()})

    def _smoothed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,)"""
        return functional.cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """Top-1 and top-5 accuracy; of equal logits the lower class stands first."""

        def best(batch: Batch) -> Tensor:
            logits = evaluation.model.classify(image_of(evaluation.model, batch))
            return torch.argsort(logits, dim=1, descending=True, stable=True)[:, :5]

        rows, ranked = evaluation.collect(best)
        names = evaluation.data.class_names
        num_top1 = num_top5 = 0
        predictions = []
        for row, top in zip(rows.tolist(), ranked.tolist(), strict=True):
            sample = evaluation.data[row]
            assert isinstance(sample, Labelled), sample
            num_top1 += top[0] == sample.label
            num_top5 += sample.label in top
            predictions.append({"image": sample.key, "classes": [names[label] for label in top]})
        scores = {"top1": percent(num_top1, len(rows)), "top5": percent(num_top5, len(rows))}
        return Scores(len(rows), scores, {}, predictions)
