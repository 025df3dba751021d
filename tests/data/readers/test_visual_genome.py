import json
from pathlib import Path

import pytest

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import detect, open_reader
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.errors import DataError


@pytest.fixture
def genome(tmp_path: Path, jpeg):
    """Images 1 and 2 in the two folders, 3 without a file."""
    root = tmp_path / "vg"
    for number, folder in ((1, "VG_100K_2"), (2, "VG_100K")):
        (root / folder).mkdir(parents=True)
        (root / folder / f"{number}.jpg").write_bytes(jpeg(number))
    urls = {1: "VG_100K_2/1.jpg", 2: "VG_100K/2.jpg"}
    images = [{"image_id": n, "url": f"https://x.org/rak248/{url}", "coco_id": None} for n, url in urls.items()]
    (root / "image_data.json").write_text(json.dumps(images))

    def write(**phrases: list[str]) -> Path:
        regions = [
            {"id": int(name[1:]), "regions": [{"image_id": int(name[1:]), "phrase": text} for text in texts]}
            for name, texts in phrases.items()
        ]
        (root / "region_descriptions.json").write_text(json.dumps(regions))
        return root

    return write


def test_one_pair_a_phrase_without_doubles(genome):
    root = genome(_2=["a dog", "its tail "], _1=["a clock", "green", "a clock"])
    assert detect(root, "pairs") == "visual-genome"
    reader = open_reader(root, "pairs", "train", BadSamples(), check="whole")
    assert [(pair.caption, pair.image_id) for pair in map(reader.__getitem__, range(len(reader)))] == [
        ("a clock", 0), ("green", 0), ("a dog", 1), ("its tail", 1),
    ]  # fmt: skip
    assert reader[0].image.read() == (root / "VG_100K_2" / "1.jpg").read_bytes()
    assert reader[3].image.read() == (root / "VG_100K" / "2.jpg").read_bytes()


def test_what_cannot_be_used_is_counted_with_its_reason(genome):
    root = genome(_1=["a clock", ""], _3=["a cat", "a cow"])
    bad = BadSamples(1.0)
    reader = open_reader(root, "pairs", "train", bad)
    assert len(reader) == 1
    assert bad.counts == {"empty phrase": 1, "regions of an image that is not in image_data.json": 2}


def test_images_beside_the_files_are_found_whatever_their_url_says(genome, jpeg):
    root = genome(_1=["a clock"])
    (root / "VG_100K_2" / "1.jpg").rename(root / "1.jpg")
    assert len(open_reader(root, "pairs", "train", BadSamples())) == 1


def test_it_has_no_validation_split(genome, small_shapes, capsys):
    root = genome(_1=["a clock"])
    with pytest.raises(DataError, match="no split 'val': Visual Genome is all for training"):
        open_data([str(root)], "pairs", "val", BadSamples())
    options, made = small_shapes
    both = [f"vg={root}", f"coco={made / 'coco'}"]
    assert len(open_data(both, "pairs", "train", BadSamples()).sources) == 2
    assert [source.name for source in open_data(both, "pairs", "val", BadSamples()).sources] == ["coco"]
    assert "no split 'val' in vg: left out there" in capsys.readouterr().err


def test_another_document_is_refused(genome):
    root = genome(_1=["a clock"])
    (root / "image_data.json").write_text("{}")
    with pytest.raises(DataError, match="not a list of images"):
        open_reader(root, "pairs", "train", BadSamples())
