"""From samples to a batch: images decoded and cropped, text as ids, words masked, targets made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmerge_cli.data import erasing, mixing, randaugment
from vlmerge_cli.data.answers import AnswerVocabulary
from vlmerge_cli.data.bad import BadSample, Problem
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.masking import IGNORE, mask_words
from vlmerge_cli.data.order import Place
from vlmerge_cli.data.samples import Image, Labelled, Masked, Pair, Question, Sample, Statement
from vlmerge_cli.data.sources import DataSet
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.data.transforms import NONE, Augment, load_image, load_mask, normalised
from vlmerge_cli.errors import DataError, UsageError

MAX_TRIES = 100  # samples that may be bad one after the other in one place of a batch

Row = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Form:
    """What a sample becomes. ``image_px`` 0 leaves images out, no ``tokenizer`` leaves texts out.

    ``mask_ratio`` above 0 adds the masked text and its labels; ``answers`` numbers the answers of questions;
    ``num_classes`` bounds the labels of masks.
    """

    image_px: int
    tokenizer: Tokenizer | None = None
    augment: Augment = NONE
    mask_ratio: float = 0.0
    answers: AnswerVocabulary | None = None
    num_classes: int = 150

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio < 1:
            raise UsageError(f"mask_ratio {self.mask_ratio} is not within [0, 1)", fix="the paper uses 0.15")


@dataclass(frozen=True)
class Prepare:
    """Makes the batch of some places of a data set. What is random is keyed by ``seed`` and the place's row.

    In training a sample that cannot be used gives way to another of its source, drawn by seed and row; in
    evaluation it stays as an empty sample that is not valid. Either way it is in the batch's ``problems``.
    """

    data: DataSet
    form: Form
    seed: int
    training: bool

    def __call__(self, places: Sequence[Place]) -> Batch:
        """Raises DataError where 100 samples in a row cannot be used."""
        problems: list[Problem] = []
        found = [self._sample(place, problems) for place in places]
        columns: dict[str, torch.Tensor] = {}
        for name in found[0][1]:
            columns[name] = torch.from_numpy(np.stack([row[name] for _, row, _, _ in found]))
        if "text" in columns and self.form.tokenizer is not None:
            columns["text_mask"] = columns["text"] != self.form.tokenizer.pad
        return Batch(
            keys=tuple(key for key, _, _, _ in found),
            row=torch.tensor([place.row for place in places]),
            index=torch.tensor([index for _, _, index, _ in found]),
            valid=torch.tensor([place.valid and usable for place, (*_, usable) in zip(places, found, strict=True)]),
            problems=tuple(problems),
            **columns,
        )

    def _sample(self, place: Place, problems: list[Problem]) -> tuple[str, Row, int, bool]:
        """Key, arrays, number in the source and whether it is what was asked for."""
        reader = self.data.sources[place.source].reader
        index = place.number
        for attempt in range(MAX_TRIES):
            key = ""
            try:
                sample = reader[index]
                key = sample.key
                return key, self._row(sample, place.row), index, True
            except BadSample as signal:
                problem = signal.problem
                where = f"{problem.example} ({key})" if key else problem.example
                problems.append(problem._replace(example=where))
            if not self.training:
                return problems[-1].example, self._empty(place), place.number, False
            index = int(generator(self.seed, "instead", place.row, attempt).integers(len(reader)))
        raise DataError(
            f"{MAX_TRIES} samples in a row cannot be used, the last: {problems[-1].reason}",
            where=problems[-1].example,
            fix=f"look at the source '{self.data.sources[place.source].name}'",
        )

    def _row(self, sample: Sample, row: int) -> Row:
        made: Row = {}
        if self.form.image_px:
            self._add_images(made, sample, row)
        if self.form.tokenizer is not None and isinstance(sample, Pair | Question | Statement):
            self._add_text(made, sample, row, self.form.tokenizer)
        if isinstance(sample, Pair):
            made["image_id"] = np.array(sample.image_id, np.int64)
        elif isinstance(sample, Question) and self.form.answers is not None:
            made["target"] = self.form.answers.target(sample.answers)
        elif isinstance(sample, Statement | Labelled):
            made["target"] = np.array(int(sample.label), np.int64)
        return made

    def _add_images(self, made: Row, sample: Sample, row: int) -> None:
        size, augment = self.form.image_px, self.form.augment
        images: list[Image] = [sample.left, sample.right] if isinstance(sample, Statement) else [sample.image]
        rng = generator(self.seed, "image", row)
        drawn = []
        for name, image in zip(("image", "image2"), images, strict=False):
            made[name], crop = load_image(image, size, augment, rng)
            if augment.num_ops:
                drawn.append(randaugment.draw(rng, augment.num_ops, augment.magnitude))
            if isinstance(sample, Masked):
                made["target"] = labels_of(load_mask(sample.mask, size, crop), self.form.num_classes)
        if augment.erase:
            made["erase_box"] = erasing.draw(rng, size, augment.erase)
        if (augment.mixup or augment.cutmix) and isinstance(sample, Labelled):
            made["mix_share"], made["mix_box"] = mixing.draw(rng, size, augment.mixup, augment.cutmix)
        if drawn:
            made["augment_codes"] = np.stack([codes for codes, _ in drawn])
            made["augment_amounts"] = np.stack([amounts for _, amounts in drawn])

    def _add_text(self, made: Row, sample: Pair | Question | Statement, row: int, tokenizer: Tokenizer) -> None:
        text = {"Pair": "caption", "Question": "question", "Statement": "text"}[type(sample).__name__]
        made["text"] = tokenizer.encode(getattr(sample, text))
        if self.form.mask_ratio:
            rng = generator(self.seed, "mask", row)
            made["masked_text"], made["masked_labels"] = mask_words(made["text"], tokenizer, self.form.mask_ratio, rng)

    def _empty(self, place: Place) -> Row:
        """Zeros of the right shapes: those of the first usable sample of the source."""
        reader = self.data.sources[place.source].reader
        for index in range(len(reader)):
            try:
                return {name: np.zeros_like(array) for name, array in self._row(reader[index], place.row).items()}
            except BadSample:
                continue
        raise DataError("no usable sample", where=self.data.sources[place.source].name)


def labels_of(grey: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Label pictures as ADE20k's: 1 ... num_classes become 0 ... num_classes - 1, all else is IGNORE."""
    labels = grey.astype(np.int64) - 1
    labels[(labels < 0) | (labels >= num_classes)] = IGNORE
    return labels


def augmented(batch: Batch) -> Batch:
    """The RandAugment operations that were drawn for a batch, done on whatever device it is on."""
    codes, amounts = batch.augment_codes, batch.augment_amounts
    if codes is None or amounts is None or batch.image is None:
        return batch
    changed = replace(
        batch,
        image=randaugment.apply(batch.image, codes[:, 0], amounts[:, 0]),
        augment_codes=None,
        augment_amounts=None,
    )
    if batch.image2 is None:
        return changed
    return replace(changed, image2=randaugment.apply(batch.image2, codes[:, 1], amounts[:, 1]))


def mixed(batch: Batch) -> Batch:
    """Random erasing, then mixup and CutMix, as they were drawn for a batch; images as floats."""
    image, target = batch.image, batch.target
    if image is not None and batch.erase_box is not None:
        image = erasing.apply(image, batch.erase_box)
    if image is None or target is None or batch.mix_share is None or batch.mix_box is None:
        return replace(batch, image=image, erase_box=None)
    image = mixing.apply(image, batch.mix_share, batch.mix_box)
    other = target[mixing.neighbours(len(batch)).to(target.device)]
    return replace(batch, image=image, erase_box=None, mix_box=None, other_target=other)


def finished(batch: Batch) -> Batch:
    """Float images in [-1, 1], everything done that was drawn for them."""
    batch = augmented(batch)
    return mixed(
        replace(
            batch,
            image=None if batch.image is None else normalised(batch.image),
            image2=None if batch.image2 is None else normalised(batch.image2),
        )
    )
