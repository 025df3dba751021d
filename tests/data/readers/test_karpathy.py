import json
from pathlib import Path

import numpy as np
import pytest

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import detect, open_reader
from vlmerge_cli.errors import DataError


def entry(name: str, split: str, *texts: str, filepath: str | None = "train2014") -> dict:
    row = {"filename": name, "split": split, "imgid": 0, "sentences": [{"raw": text} for text in texts]}
    return row if filepath is None else {**row, "filepath": filepath}


@pytest.fixture
def coco(tmp_path: Path, jpeg):
    (tmp_path / "train2014").mkdir()
    for number in range(4):
        (tmp_path / "train2014" / f"{number}.jpg").write_bytes(jpeg(number))

    def write(*rows: dict) -> Path:
        document = {"images": list(rows), "dataset": "coco"}
        (tmp_path / "dataset_coco.json").write_text(json.dumps(document))
        return tmp_path

    return write


def test_one_pair_a_caption_without_doubles(coco):
    root = coco(entry("0.jpg", "train", "a cat", "a dog ", "a cat"), entry("1.jpg", "train", "a cow"))
    reader = open_reader(root, "pairs", "train", BadSamples())
    assert [(pair.caption, pair.image_id) for pair in map(reader.__getitem__, range(len(reader)))] == [
        ("a cat", 0), ("a dog", 0), ("a cow", 1),
    ]  # fmt: skip
    assert reader[2].image.read() == (root / "train2014" / "1.jpg").read_bytes()


def test_splits_and_restval(coco):
    root = coco(*(entry(f"{n}.jpg", split, split) for n, split in enumerate(("train", "restval", "val", "test"))))
    assert [len(open_reader(root, "pairs", split, BadSamples())) for split in ("train", "val", "test")] == [
        1,
        1,
        1,
    ]
    assert len(open_reader(root, "pairs", "train", BadSamples(), restval=True)) == 2
    assert len(open_reader(root, "pairs", "val", BadSamples(), restval=True)) == 1
    with pytest.raises(DataError, match="there are: restval, test, train, val"):
        open_reader(root, "pairs", "dev", BadSamples())


def test_flickr_has_no_filepath_and_a_folder_of_its_own(tmp_path, jpeg):
    (tmp_path / "flickr30k-images").mkdir()
    (tmp_path / "flickr30k-images" / "7.jpg").write_bytes(jpeg())
    rows = {"images": [entry("7.jpg", "test", "a man", filepath=None)]}
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(rows))
    assert detect(tmp_path, "pairs") == "karpathy"
    reader = open_reader(tmp_path / "dataset_flickr30k.json", "pairs", "test", BadSamples())
    assert reader[0].image.read() == jpeg()


def test_of_several_files_the_one_whose_images_are_there(coco):
    root = coco(entry("0.jpg", "train", "a cat"))
    other = {"images": [entry("none.jpg", "train", "elsewhere", filepath=None)]}
    (root / "dataset_a.json").write_text(json.dumps(other))
    assert open_reader(root, "pairs", "train", BadSamples())[0].caption == "a cat"


def test_everything_that_can_be_wrong_is_counted(coco):
    root = coco(
        entry("0.jpg", "train", "fine"),
        entry("gone.jpg", "train", "one", "two"),
        entry("1.jpg", "train", "  ", "fine too"),
        entry("2.jpg", "train"),
        entry("", "train", "nameless"),
        entry("3.jpg", "train", "cut"),
    )
    cut = root / "train2014" / "3.jpg"
    cut.write_bytes(cut.read_bytes()[:-50])
    bad = BadSamples(max_ratio=1.0)
    reader = open_reader(root, "pairs", "train", bad, check="whole")
    assert [reader[number].caption for number in range(len(reader))] == ["fine", "fine too"]
    assert bad.counts == {
        "missing image": 2,
        "empty caption": 1,
        "image without captions": 1,
        "entry without a filename": 1,
        "truncated or unreadable image": 1,
    }
    assert np.array_equal(reader.image_ids, [0, 1])
    with pytest.raises(DataError, match="6 of 8 samples"):
        open_reader(root, "pairs", "train", BadSamples(), check="whole")


def test_a_json_that_is_cut_off(coco):
    root = coco(entry("0.jpg", "train", "a cat"))
    file = root / "dataset_coco.json"
    file.write_text(file.read_text()[:-10])
    with pytest.raises(DataError, match="not JSON"):
        open_reader(root, "pairs", "train", BadSamples())


def captions(reader) -> list[str]:
    return [reader[number].caption for number in range(len(reader))]


def test_captions_as_plain_texts(coco):
    root = coco(
        {**entry("0.jpg", "train"), "sentences": ["a cat", "a dog"]}, {**entry("1.jpg", "train"), "sentences": "a cow"}
    )
    assert captions(open_reader(root, "pairs", "train", BadSamples())) == ["a cat", "a dog", "a cow"]


@pytest.mark.parametrize("sentences", [[None], None, {}, [{"raw": None}], [["a"]], [{}], [" "]])
def test_captions_without_a_text_are_bad_samples(coco, sentences):
    root = coco(entry("0.jpg", "train", "a cat"), {**entry("1.jpg", "train"), "sentences": sentences})
    with pytest.raises(DataError, match="1 of 2 samples cannot be used"):
        open_reader(root, "pairs", "train", BadSamples())
    assert captions(open_reader(root, "pairs", "train", BadSamples(1.0))) == ["a cat"]


def test_a_byte_order_mark(coco):
    root = coco(entry("0.jpg", "train", "a cat"))
    file = root / "dataset_coco.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert captions(open_reader(root, "pairs", "train", BadSamples())) == ["a cat"]


def test_the_lists_of_lavis(coco):
    root = coco()
    (root / "dataset_coco.json").unlink()
    lists = {
        "coco_karpathy_train.json": [
            {"caption": "a cat", "image": "train2014/0.jpg", "image_id": "coco_0"},
            {"caption": "a dog", "image": "train2014/0.jpg", "image_id": "coco_0"},
            {"caption": "a cow", "image": "train2014/1.jpg", "image_id": "coco_1"},
        ],
        "coco_karpathy_test.json": [{"caption": ["a hen", "a pig"], "image": "train2014/2.jpg"}],
    }
    for name, rows in lists.items():
        (root / name).write_text(json.dumps(rows))
    train = open_reader(root, "pairs", "train", BadSamples())
    assert captions(train) == ["a cat", "a dog", "a cow"]
    assert train.image_ids.tolist() == [0, 0, 1]
    assert captions(open_reader(root, "pairs", "test", BadSamples())) == ["a hen", "a pig"]
    assert captions(open_reader(root / "coco_karpathy_test.json", "pairs", "test", BadSamples())) == ["a hen", "a pig"]
    with pytest.raises(DataError, match="there are: test"):
        open_reader(root / "coco_karpathy_test.json", "pairs", "val", BadSamples())


def test_the_first_image_may_be_missing(tmp_path, jpeg):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(jpeg())
    rows = {"images": [entry(f"{number}.jpg", "train", f"text {number}", filepath=None) for number in range(2)]}
    (tmp_path / "dataset.json").write_text(json.dumps(rows))
    bad = BadSamples(1.0)
    assert captions(open_reader(tmp_path, "pairs", "train", bad)) == ["text 1"]
    assert bad.counts == {"missing image": 1}
