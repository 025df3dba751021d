"""ADE20k: what every pixel of an image belongs to, by the vision expert alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from vlmerge_cli import ranks
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.masking import IGNORE
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.steps.across_ranks import total
from vlmerge_cli.steps.evaluation import Evaluation, Scores, image_of, percent, shared_total
from vlmerge_cli.steps.passes import Outcome, Passes, share
from vlmerge_cli.tasks.task import Task


class Segmentation(Task):
    """One linear map of every patch, enlarged to the image (see model/heads.py); cross-entropy over labelled pixels."""

    name = head = "segmentation"
    kind = "masks"
    served_by = ("segmentation",)
    main = "miou"
    published: ClassVar[dict[str, Any]] = {
        # BEiT-base's published fine-tuning on ADE20k, of weights that saw no labels before (paper, appendix A), its
        # decoder replaced by the linear one
        "image_px": 512, "batch_size": 16, "steps": 160_000, "optimizer.lr": 7e-4, "optimizer.warmup": 1500 / 160_000,
        "optimizer.layer_decay": 0.65, "optimizer.weight_decay": 0.05, "optimizer.betas": (0.9, 0.999), "drop": 0.1,
    }  # fmt: skip
    built_in: ClassVar[dict[str, Any]] = {"steps": 400, "batch_size": 32, "optimizer.lr": 1e-3}

    def sizes(self, data: DataSet) -> dict[str, int]:
        return {"num_segments": len(data.class_names)}

    def loss(self, passes: Passes) -> Outcome:
        """Averaged over the labelled pixels of the global batch."""
        target = passes.batch.target
        assert target is not None, "segmentation needs label pictures"
        logits = passes.model.segment(passes.image, keep=passes.depth("image"))  # (B, segments, px, px)
        count = total((target != IGNORE).sum())
        loss = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
        hits = (logits.argmax(1) == target).sum().float()
        each = ranks.world_size()
        return Outcome(share(loss, count) * each, {"pixel_accuracy": share(hits, count) * each})

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """Mean intersection over union and pixel accuracy, at the model's input size."""
        model, names = evaluation.model, evaluation.data.class_names

        def label(batch: Batch) -> Tensor:
            return model.segment(image_of(model, batch)).argmax(1)

        num = model.config.num_segments
        counts = torch.zeros(num, num, dtype=torch.int64, device=evaluation.device)
        num_images = torch.zeros((), dtype=torch.int64, device=evaluation.device)
        for batch, said in evaluation.see(label):
            assert batch.target is not None
            counts += confusion(said[batch.valid], batch.target[batch.valid], num)
            num_images += batch.valid.sum()
        counts = shared_total(counts)
        ious = intersection_over_union(counts)
        scores = {
            "miou": 100.0 * sum(ious.values()) / len(ious) if ious else 0.0,
            "pixel_accuracy": percent(int(counts.trace()), int(counts.sum())),
        }
        by_name = {names[label] if label < len(names) else str(label): {"iou": 100.0 * iou}
                   for label, iou in ious.items()}  # fmt: skip
        return Scores(int(shared_total(num_images)), scores, {"class": by_name})


def confusion(said: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """(classes, classes) pixels by truth and what was said; unlabelled pixels are left out."""
    labelled = truth != IGNORE
    pairs = truth[labelled] * num_classes + said[labelled]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def intersection_over_union(counts: Tensor) -> dict[int, float]:
    """Class -> pixels that are both / pixels that are either; a class that is neither said nor there has none."""
    both, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    return {label: int(both[label]) / int(either[label]) for label in range(len(counts)) if either[label] > 0}
