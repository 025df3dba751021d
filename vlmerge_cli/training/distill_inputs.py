"""What the teacher and the student of a distillation are shown: pairs, pictures alone, or nothing but noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlmerge_cli import console
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.noise_images import SyntheticImage
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.sources import DataSet, open_data
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.data.unpaired_images_and_texts import images_in, lines_of, unpaired
from vlmerge_cli.errors import UsageError
from vlmerge_cli.steps.generated_texts import random_texts, write_texts
from vlmerge_cli.training.distill_config import DistillConfig
from vlmerge_cli.training.pretrain_config import AUGMENTS
from vlmerge_cli.weights.vlmodel import VLModel

HELD_OUT, MOST_HELD_OUT = 0.1, 256  # share of the inputs that validate, and the most of them
WRITTEN_AT_ONCE = 64


@dataclass(frozen=True)
class Inputs:
    """Samples to train with and to validate with; ``texts`` (samples, L) stand for theirs, first those of ``train``."""

    train: DataSet
    held_out: DataSet
    form: Form
    texts: Tensor | None = None

    def loader(self, config: DistillConfig, device: str, bad: BadSamples, held_out: bool) -> Loader:
        """Of this rank's share."""
        if not held_out:
            data, form, size = self.train, self.form, config.batch_size
        else:
            plain = replace(self.form, augment=AUGMENTS["none"])
            data, form, size = self.held_out, plain, config.batch_size // config.accumulate
        return Loader(data, form, size, seed=config.seed, num_workers=config.num_workers, device=device, bad=bad)

    def batches(self, loader: Loader, held_out: bool, start: int, stop: int | None = None) -> Iterator[Batch]:
        """Those of a loader, with the texts that stand for the samples' own."""
        first = len(self.train) if held_out else 0
        for batch in loader.steps(start, stop):
            if self.texts is None or self.form.tokenizer is None:
                yield batch
            else:
                ids = self.texts[first + batch.index.cpu()].to(batch.row.device)
                yield replace(batch, text=ids, text_mask=ids != self.form.tokenizer.pad)


def open_inputs(config: DistillConfig, teacher: VLModel, tokenizer: Tokenizer, bad: BadSamples) -> Inputs:
    """A choice of what was given, drawn by seed, the same on every rank. Raises UsageError and DataError."""
    form = Form(teacher.config.image_px, tokenizer, AUGMENTS[config.augment])
    data = _opened(config, teacher.config.image_px, bad)
    chosen = generator(config.seed, "distill").permutation(len(data))[: config.num_examples or None]
    num_held_out = min(MOST_HELD_OUT, round(HELD_OUT * len(chosen)))
    if not num_held_out:
        raise UsageError(f"{len(chosen)} samples leave none to validate with", fix="give 6 or more")
    train, held_out = (data.only(np.sort(part)) for part in (chosen[num_held_out:], chosen[:num_held_out]))
    inputs = Inputs(train, held_out, form)
    if config.words == "random":
        return replace(inputs, texts=random_texts(tokenizer, len(chosen), config.seed))
    if config.words == "model":
        return replace(inputs, texts=_written(config, teacher, inputs, bad))
    return inputs


def _opened(config: DistillConfig, image_px: int, bad: BadSamples) -> DataSet:
    if config.synthetic:
        made = [SyntheticImage(config.seed, number, image_px) for number in range(config.num_examples or 2048)]
        return unpaired("synthetic", made)
    if config.images is not None:
        texts = ("",) if config.texts is None else lines_of(Path(config.texts))
        return unpaired(Path(config.images).name, images_in(Path(config.images)), texts)
    return open_data(config.data, "pairs", "train", bad, shapes=config.shapes_options(image_px))


def _written(config: DistillConfig, teacher: VLModel, inputs: Inputs, bad: BadSamples) -> Tensor:
    """A text for every picture, by the teacher's own masked-language head."""
    tokenizer = inputs.form.tokenizer
    assert tokenizer is not None, "texts need a tokenizer"
    if "mlm" not in teacher.config.heads:
        raise UsageError("the model has no mlm head to write texts with", fix="--set words=random, or --texts FILE")
    device = next(teacher.parameters()).device
    total = len(inputs.train) + len(inputs.held_out)
    texts = torch.full((total, tokenizer.length_tokens), tokenizer.pad)
    form = Form(inputs.form.image_px)
    with console.progress("writing texts", total, "texts") as advance:
        for data, first in ((inputs.train, 0), (inputs.held_out, len(inputs.train))):
            loader = Loader(
                data, form, WRITTEN_AT_ONCE, training=False, num_workers=config.num_workers, device=device, bad=bad,
                rank=0, world_size=1,
            )  # fmt: skip
            for batch in loader.all():
                assert batch.image is not None, "pictures are read"
                rows, valid = first + batch.row.cpu(), batch.valid.cpu()
                found = write_texts(teacher, tokenizer, batch.image, config.seed, int(rows[0])).cpu()
                texts[rows[valid]] = found[valid]
                advance(int(valid.sum()))
    return texts
