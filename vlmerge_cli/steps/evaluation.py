"""Evaluating a model on every sample of a data set once, over all ranks, with results that do not depend on them.

Batches are chunks of one size whatever the number of ranks. What comes back is put into the order of the data set
before anything is added up, so two processes give the numbers of one to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmerge_cli import ranks
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.model.hidden import State
from vlmerge_cli.steps.across_ranks import gather
from vlmerge_cli.steps.precision import autocast, typed
from vlmerge_cli.weights.vlmodel import VLModel

Look = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Scores:
    """``values`` are percentages by name; ``groups`` are scores by category, such as answer type -> number.

    ``predictions`` are rows in the form of the benchmark's server, in the order of the data set.
    """

    num_samples: int
    values: dict[str, float]
    groups: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """A model, a data set, and how the one is shown the other."""

    model: VLModel
    data: DataSet
    form: Form
    chunk_size: int = 64
    num_workers: int = 0
    precision: str = "float32"
    bad: BadSamples = field(default_factory=BadSamples)
    through: Callable[[Look, Batch], Tensor] = lambda look, batch: look(batch)  # FSDP wants its module called

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batches(self, data: DataSet | None = None, form: Form | None = None) -> Iterator[Batch]:
        """This rank's chunks of the data; every rank has as many."""
        loader = Loader(
            data or self.data, form or self.form, self.chunk_size, training=False, num_workers=self.num_workers,
            device=self.device, bad=self.bad,
        )  # fmt: skip
        yield from typed(loader.all(), self.precision)

    def see(self, look: Look, data: DataSet | None = None, form: Form | None = None) -> Iterator[tuple[Batch, Tensor]]:
        """This rank's chunks and what ``look`` says of each, without gradients and in the chosen precision."""
        training = self.model.training
        for batch in self.batches(data, form):
            self.model.eval()
            with torch.no_grad(), autocast(self.device, self.precision):
                found = self.through(look, batch)
            self.model.train(training)
            yield batch, found

    def collect(
        self, look: Look, data: DataSet | None = None, form: Form | None = None
    ) -> tuple[NDArray[np.int64], Tensor]:
        """What ``look`` says of each sample: places in the data set (n,) in rising order and values (n, ...).

        Samples that could not be read are not among them. Values are on the CPU; every rank has all.
        """
        rows, values = [], []
        for batch, found in self.see(look, data, form):
            kept = gather(batch.valid)
            rows.append(gather(batch.row)[kept].cpu())
            values.append(gather(found)[kept].cpu())
        row = torch.cat(rows)
        order = torch.argsort(row)
        return row[order].numpy(), torch.cat(values)[order]


def text_of(model: VLModel, batch: Batch) -> State:
    """The batch's texts below the fusion layers."""
    assert batch.text is not None, "the task needs text"
    return model.text(batch.text, batch.text_mask)


def image_of(model: VLModel, batch: Batch, second: bool = False) -> State:
    """The batch's images (``second``: those of NLVR2's right side) below the fusion layers."""
    image = batch.image2 if second else batch.image
    assert image is not None, "the task needs images"
    return model.image(image, second=second)


def percent(part: float, whole: float) -> float:
    """100 · part / whole, 0 of nothing."""
    return 100.0 * part / whole if whole else 0.0


def shared_total(count: Tensor) -> Tensor:
    """Whole numbers added over ranks, on the CPU."""
    import torch.distributed as dist

    assert not count.is_floating_point(), count.dtype
    if ranks.world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
    return count.cpu()
