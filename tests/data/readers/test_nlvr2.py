import json
from pathlib import Path

import pytest

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import open_reader
from vlmerge_cli.errors import DataError


@pytest.fixture
def root(tmp_path: Path, jpeg) -> Path:
    home = tmp_path / "images" / "train" / "17"
    home.mkdir(parents=True)
    lines = []
    for pair in range(3):
        for side in (0, 1):
            (home / f"train-5-{pair}-img{side}.png").write_bytes(jpeg(2 * pair + side, kind="PNG"))
        for sentence in range(2):
            name = f"train-5-{pair}-{sentence}"
            label = str(pair == sentence)
            lines.append({"identifier": name, "sentence": f"s{sentence}", "label": label, "directory": 17})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "dev").mkdir()
    for side in (0, 1):
        (tmp_path / "dev" / f"dev-1-0-img{side}.png").write_bytes(jpeg(side, kind="PNG"))
    row = {"identifier": "dev-1-0-0", "sentence": "s", "label": "true"}
    (tmp_path / "data" / "dev.json").write_text(json.dumps(row))
    return tmp_path


def test_statements_images_and_groups(root, jpeg):
    reader = open_reader(root, "statements", "train", BadSamples())
    found = [reader[number] for number in range(len(reader))]
    assert [one.label for one in found] == [True, False, False, True, False, False]
    assert found[2].left.read() == jpeg(2, kind="PNG")
    assert found[2].right.read() == jpeg(3, kind="PNG")
    assert [one.group for one in found] == ["train-5-0", "train-5-1"] * 3
    assert (found[3].key, found[3].text) == ("train-5-1-1", "s1")


def test_images_without_the_images_folder(root, jpeg):
    assert open_reader(root, "statements", "val", BadSamples())[0].right.read() == jpeg(1, kind="PNG")


def test_a_split_that_is_not_there(root):
    with pytest.raises(DataError, match=r"no test1.json"):
        open_reader(root, "statements", "test", BadSamples())
    with pytest.raises(DataError, match="no split 'tset'"):
        open_reader(root, "statements", "tset", BadSamples())


def test_what_is_wrong_is_counted(root):
    (root / "images" / "train" / "17" / "train-5-0-img1.png").unlink()
    cut = root / "images" / "train" / "17" / "train-5-2-img0.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    with open(root / "data" / "train.json", "a") as file:
        file.write('{"identifier": "train-5-0-0", "sentence"\n\n')
        file.write('{"identifier": "x", "sentence": "y", "label": "maybe"}\n')
    bad = BadSamples(max_ratio=1.0)
    reader = open_reader(root, "statements", "train", bad, check="whole")
    assert [reader[number].key for number in range(len(reader))] == ["train-5-1-0", "train-5-1-1"]
    assert bad.counts == {
        "missing image": 2,
        "truncated or unreadable image": 2,
        "line without identifier, sentence and label": 2,
    }
