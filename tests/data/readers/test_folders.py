"""ImageNet's class folders and ADE20k's images and annotations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import detect, open_reader
from vlmerge_cli.errors import DataError


@pytest.fixture
def imagenet(tmp_path: Path, jpeg) -> Path:
    for split, num in (("train", 3), ("val", 1)):
        for name in ("n02", "n01", "n10"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(num):
                (tmp_path / split / name / f"{name}_{number}.JPEG").write_bytes(jpeg(number))
    return tmp_path


def test_labels_are_the_sorted_folders_of_train(imagenet):
    (imagenet / "val" / "n01" / "n01_0.JPEG").unlink()
    (imagenet / "val" / "n01").rmdir()
    reader = open_reader(imagenet, "labels", "val", BadSamples())
    assert reader.class_names == ("n01", "n02", "n10")
    assert [(one.key, one.label) for one in map(reader.__getitem__, range(2))] == [
        ("n02/n02_0.JPEG", 1), ("n10/n10_0.JPEG", 2),
    ]  # fmt: skip
    assert len(open_reader(imagenet, "labels", "train", BadSamples())) == 9


def test_an_unknown_class_and_a_cut_image_are_counted(imagenet, jpeg):
    (imagenet / "val" / "n99").mkdir()
    (imagenet / "val" / "n99" / "a.JPEG").write_bytes(jpeg())
    (imagenet / "val" / "n01" / "n01_0.JPEG").write_bytes(jpeg()[:-30])
    bad = BadSamples(max_ratio=1.0)
    assert len(open_reader(imagenet, "labels", "val", bad, check="whole")) == 2
    assert bad.counts == {"class that train does not have": 1, "truncated or unreadable image": 1}


def test_a_split_without_a_folder(imagenet):
    with pytest.raises(DataError, match="there are: train, val"):
        open_reader(imagenet, "labels", "test", BadSamples())


@pytest.fixture
def ade(tmp_path: Path, jpeg) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for kind in ("images", "annotations"):
        (root / kind / "training").mkdir(parents=True)
    for number in (1, 2, 3):
        stem = f"ADE_train_{number:08d}"
        (root / "images" / "training" / f"{stem}.jpg").write_bytes(jpeg(number, 12, 10))
        grey = np.full((10, 12), number, np.uint8)
        Image.fromarray(grey).save(root / "annotations" / "training" / f"{stem}.png")
    return tmp_path


def test_images_and_their_annotations(ade):
    assert detect(ade, "masks") == "ade20k"
    reader = open_reader(ade, "masks", "train", BadSamples())
    assert [reader[n].key for n in range(3)] == [f"ADE_train_{n:08d}.jpg" for n in (1, 2, 3)]
    assert len(reader.class_names) == 150
    info = ade / "ADEChallengeData2016" / "objectInfo150.txt"
    info.write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t2\t3\twall\n2\t0.1\t2\t3\tbuilding, edifice\n")
    assert open_reader(ade, "masks", "train", BadSamples()).class_names == ("wall", "building, edifice")


def test_what_has_no_partner_is_counted(ade, jpeg):
    root = ade / "ADEChallengeData2016"
    (root / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    (root / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    bad = BadSamples(max_ratio=1.0)
    assert len(open_reader(ade, "masks", "train", bad)) == 1
    assert bad.counts == {"image without an annotation": 1, "annotation without an image": 1}
    with pytest.raises(DataError, match="no folder images/validation"):
        open_reader(ade, "masks", "val", BadSamples())
