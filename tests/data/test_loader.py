from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.masking import IGNORE
from vlmerge_cli.data.prepare import Form, labels_of
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.data.tokenizer import load
from vlmerge_cli.data.transforms import Augment
from vlmerge_cli.errors import DataError, UsageError

FORM = Form(16, load("bundled", 20), Augment(), mask_ratio=0.3)


def pairs(small_shapes, split="train"):
    return open_data([str(small_shapes[1] / "coco")], "pairs", split, BadSamples())


def equal(one: Batch, other: Batch) -> bool:
    for field in fields(Batch):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, torch.Tensor):
            if mine.dtype != its.dtype or not torch.equal(mine, its):
                return False
        elif mine != its:
            return False
    return True


def joined(parts: list[Batch]) -> Batch:
    values = {}
    for field in fields(Batch):
        each = [getattr(part, field.name) for part in parts]
        if isinstance(each[0], torch.Tensor):
            values[field.name] = torch.cat(each)
        else:
            values[field.name] = None if each[0] is None else sum(each, ())
    return Batch(**values)


def test_ranks_and_workers_do_not_change_a_global_batch(small_shapes):
    """Crops, flips, RandAugment and masks included, bit for bit."""
    data = pairs(small_shapes)
    alone = list(Loader(data, FORM, 12, seed=5).steps(0, 4))
    for world, workers in ((2, 0), (3, 0), (2, 1)):
        parts = [
            list(Loader(data, FORM, 12, seed=5, num_workers=workers, rank=rank, world_size=world).steps(0, 4))
            for rank in range(world)
        ]
        for step, whole in enumerate(alone):
            assert equal(joined([part[step] for part in parts]), whole), (world, workers, step)


def test_a_run_that_starts_at_a_step_equals_one_that_got_there(small_shapes):
    data = pairs(small_shapes)
    through = list(Loader(data, FORM, 8, seed=1).steps(0, 40))
    resumed = list(Loader(data, FORM, 8, seed=1).steps(33, 40))
    assert all(equal(one, other) for one, other in zip(through[33:], resumed, strict=True))
    assert not equal(through[0], through[1])


def test_a_loader_with_workers_can_be_left_and_used_again(small_shapes):
    loader = Loader(pairs(small_shapes), FORM, 8, seed=1, num_workers=1)
    first = next(iter(loader.steps(0)))
    again = list(loader.steps(0, 2))
    assert equal(first, again[0])
    assert len(again) == 2


def test_a_loader_with_workers_is_gone_when_it_is_let_go(small_shapes):
    import gc
    import time

    loader = Loader(pairs(small_shapes), FORM, 8, num_workers=1)
    next(loader.steps(0))
    gc.disable()
    try:
        start = time.perf_counter()
        workers = loader._workers._iterator._workers
        del loader
        assert not any(worker.is_alive() for worker in workers)
        assert time.perf_counter() - start < 4
    finally:
        gc.enable()


def test_what_a_batch_of_pairs_holds(small_shapes):
    data = pairs(small_shapes)
    batch = next(Loader(data, FORM, 12, seed=0).steps(3))
    assert batch.image.shape == (12, 3, 16, 16)
    assert batch.image.dtype == torch.float32
    assert -1 <= batch.image.min() < batch.image.max() <= 1
    assert batch.row.tolist() == list(range(36, 48))
    assert batch.text.shape == batch.text_mask.shape == batch.masked_text.shape == (12, 20)
    picked = batch.masked_labels != IGNORE
    assert (batch.masked_labels[picked] == batch.text[picked]).all()
    assert picked.any(1).all()
    tokenizer = FORM.tokenizer
    for index, number, ids in zip(batch.index.tolist(), batch.image_id.tolist(), batch.text, strict=True):
        assert tokenizer.decode(ids) == data[index].caption
        assert data[index].image_id == number
    parts = list(batch.split(3))
    assert equal(joined(parts), batch)
    assert [len(part) for part in parts] == [4, 4, 4]


def test_questions_statements_labels_and_masks(small_shapes):
    root = small_shapes[1]
    data = open_data([str(root / "coco")], "questions", "val", BadSamples(), num_answers=20)
    batch = next(Loader(data, Form(16, FORM.tokenizer, answers=data.vocabulary), 8, training=False).all())
    for row in range(8):
        assert np.array_equal(batch.target[row].numpy(), data.vocabulary.target(data[row].answers))
    data = open_data([str(root / "nlvr2")], "statements", "test", BadSamples())
    batch = next(Loader(data, Form(16, FORM.tokenizer, Augment()), 8).steps())
    assert batch.image.shape == batch.image2.shape
    assert not torch.equal(batch.image, batch.image2)
    assert batch.target.tolist() == [int(data[index].label) for index in batch.index.tolist()]
    data = open_data([str(root / "classes")], "labels", "test", BadSamples())
    batch = next(Loader(data, Form(16), 8, training=False).all())
    assert [data.class_names[label] for label in batch.target.tolist()] == [data[n].key.split("/")[0] for n in range(8)]
    assert batch.text is None
    data = open_data([str(root / "ade20k")], "masks", "train", BadSamples())
    batch = next(Loader(data, Form(16, num_classes=len(data.class_names)), 8).steps())
    assert batch.target.shape == (8, 16, 16)
    assert set(batch.target.unique().tolist()) <= {IGNORE, *range(7)}


def test_segmentation_labels_by_hand():
    grey = np.array([[0, 1, 2], [150, 151, 255]], np.uint8)
    assert labels_of(grey, 150).tolist() == [[IGNORE, 0, 1], [149, IGNORE, IGNORE]]


def test_evaluation_sees_each_sample_once_over_all_ranks(small_shapes):
    data = pairs(small_shapes, "test").images()
    assert len(data) == 16
    loaders = [Loader(data, Form(16), 5, training=False, rank=rank, world_size=2) for rank in range(2)]
    dealt = [list(loader.all()) for loader in loaders]
    assert [len(part) for part in dealt] == [2, 2]
    seen = [key for part in dealt for batch in part for key, ok in zip(batch.keys, batch.valid, strict=True) if ok]
    assert sorted(seen) == sorted(data[number].key for number in range(16))


def test_images_alone_and_texts_alone(small_shapes):
    data = pairs(small_shapes, "val")
    texts = next(Loader(data, Form(0, FORM.tokenizer), 4, training=False).all())
    assert texts.image is None
    assert texts.text.shape == (4, 20)
    images = data.images()
    assert np.array_equal(images.image_ids(), np.arange(12))


def test_a_batch_that_ranks_cannot_share_is_refused_at_once(small_shapes):
    with pytest.raises(UsageError, match="10 cannot be shared by 4"):
        Loader(pairs(small_shapes), FORM, 10, rank=0, world_size=4)


@pytest.fixture
def damaged(small_shapes, tmp_path: Path):
    import shutil

    root = tmp_path / "coco"
    shutil.copytree(small_shapes[1] / "coco", root)
    for name in sorted((root / "train2014").iterdir())[:2]:
        name.write_bytes(name.read_bytes()[:-100])
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_by_default_without_a_traceback(damaged, workers):
    bad = BadSamples()
    data = open_data([str(damaged)], "pairs", "train", bad)
    with pytest.raises(DataError, match="truncated or unreadable image") as caught:
        list(Loader(data, FORM, 8, bad=bad, num_workers=workers).steps(0, 40))
    assert "Traceback" not in str(caught.value)


def test_looking_at_whole_files_finds_it_before_the_start(damaged):
    with pytest.raises(DataError, match="10 × truncated or unreadable image"):
        open_data([str(damaged)], "pairs", "train", BadSamples(), check="whole")


def test_bad_samples_give_way_to_the_same_ones_on_any_number_of_ranks(damaged):
    def run(world: int) -> tuple[list[Batch], list[BadSamples]]:
        tallies = [BadSamples(max_ratio=0.2) for _ in range(world)]
        parts = []
        for rank, bad in enumerate(tallies):
            data = open_data([str(damaged)], "pairs", "train", bad)
            parts.append(list(Loader(data, FORM, 12, bad=bad, rank=rank, world_size=world).steps(0, 20)))
        return [joined([part[step] for part in parts]) for step in range(20)], tallies

    alone, (tally,) = run(1)
    two, _ = run(2)
    assert all(equal(one, other) for one, other in zip(alone, two, strict=True))
    assert tally.counts == {"truncated or unreadable image": 10}  # two images of five pairs
    assert all(batch.valid.all() for batch in alone)


def test_in_evaluation_a_bad_sample_is_skipped_and_not_replaced(damaged):
    bad = BadSamples(max_ratio=1.0)
    data = open_data([str(damaged)], "pairs", "train", bad).images()
    batches = list(Loader(data, Form(16), 16, training=False, bad=bad).all())
    assert torch.cat([batch.valid for batch in batches]).sum() == 46
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(48))
    assert bad.num_bad == 2


def test_a_source_with_nothing_readable_is_an_error(small_shapes, tmp_path):
    import shutil

    root = tmp_path / "coco"
    shutil.copytree(small_shapes[1] / "coco", root)
    for name in (root / "train2014").iterdir():
        name.write_bytes(b"nothing")
    bad = BadSamples(max_ratio=1.0)
    data = open_data([str(root)], "pairs", "train", bad)
    with pytest.raises(DataError, match="100 samples in a row"):
        next(Loader(data, FORM, 4, bad=bad).steps())
