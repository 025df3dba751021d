"""COCO and Flickr30k: find the texts of an image and the image of a text among all of a split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vlmerge_cli.data.batch import Batch
from vlmerge_cli.steps.evaluation import Evaluation, Scores, image_of, text_of
from vlmerge_cli.steps.passes import Outcome, Passes
from vlmerge_cli.steps.ranking import CHUNK, recalls
from vlmerge_cli.tasks.itc import half
from vlmerge_cli.tasks.task import Task


class Retrieval(Task):
    """Image and text alone, through the v and l experts; symmetric cross-entropy over the global batch.

    A model with the ITC head serves as it is: zero-shot. Source: paper section 5.
    """

    name = "retrieval"
    head = "retrieval"
    kind = "pairs"
    served_by = ("retrieval", "itc")
    main = "mean_recall"
    published: ClassVar[dict[str, Any]] = {  # paper Table 6, COCO, and the published configuration
        "image_px": 384, "batch_size": 640, "epochs": 20, "optimizer.lr": 6.25e-6, "optimizer.warmup": 0.1, "drop": 0.1,
    }  # fmt: skip
    built_in: ClassVar[dict[str, Any]] = {"steps": 200, "batch_size": 64, "optimizer.lr": 5e-4}

    def loss(self, passes: Passes) -> Outcome:
        """Contrastive, both ways, over the global batch; text and image each pass alone."""
        loss, accuracy = half(passes, second=False)
        return Outcome(loss, {"batch_accuracy": accuracy})

    def evaluate(self, evaluation: Evaluation) -> Scores:
        """TR (texts of an image) and IR (image of a text) at 1, 5 and 10, their averages, and the mean of all six."""
        model, data, form = evaluation.model, evaluation.data, evaluation.form

        def of_text(batch: Batch) -> Tensor:
            return model.features(text_of(model, batch))

        def of_image(batch: Batch) -> Tensor:
            return model.features(image_of(model, batch))

        ids = data.image_ids()
        firsts = np.unique(ids, return_index=True)[1]  # each image's first pair, by rising image id
        image_rows, images = evaluation.collect(of_image, data.images(), replace(form, tokenizer=None))
        text_rows, texts = evaluation.collect(of_text, data, replace(form, image_px=0))
        owner_of = {int(ids[firsts[row]]): place for place, row in enumerate(image_rows.tolist())}
        kept = [place for place, row in enumerate(text_rows.tolist()) if int(ids[row]) in owner_of]
        owner = torch.tensor([owner_of[int(ids[text_rows[place]])] for place in kept])
        device = evaluation.device
        scores = recalls(images.to(device), texts[torch.tensor(kept)].to(device), owner.to(device), CHUNK)
        return Scores(len(kept), scores)


class Flickr30k(Retrieval):
    """Retrieval with the settings of Flickr30k."""

    name = "flickr30k"
    published: ClassVar[dict[str, Any]] = {
        **Retrieval.published, "batch_size": 128, "epochs": 40, "optimizer.lr": 6.25e-7,
    }  # fmt: skip
