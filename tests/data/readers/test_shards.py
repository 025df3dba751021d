import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from vlmerge_cli.data.bad import BadSample, BadSamples
from vlmerge_cli.data.readers import detect, open_reader
from vlmerge_cli.errors import DataError


def shard(path: Path, samples: list[dict[str, bytes]]) -> Path:
    """Members ``NUMBER.ENDING`` in order, as img2dataset writes them."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for ending, data in sample.items():
                info = tarfile.TarInfo(f"{path.stem}{number:04d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def root(tmp_path: Path, jpeg) -> Path:
    for number in range(3):
        rows = []
        for sample in range(4):
            text = f"caption {number} {sample}"
            rows.append(
                {
                    "jpg": jpeg(10 * number + sample),
                    "json": json.dumps({"caption": "x"}).encode(),
                    "txt": text.encode(),
                }
            )
        shard(tmp_path / f"{number:05d}.tar", rows)
    return tmp_path


def captions(reader) -> list[str]:
    return [reader[number].caption for number in range(len(reader))]


def test_pairs_in_order(root, jpeg):
    assert detect(root, "pairs") == "img2dataset"
    reader = open_reader(root, "pairs", "train", BadSamples())
    assert captions(reader) == [f"caption {n} {s}" for n in range(3) for s in range(4)]
    assert reader[6].image.read() == jpeg(12)
    assert reader[6].key == "00001.tar#2"
    assert reader.starts.tolist() == [0, 4, 8, 12]


def test_one_shard_a_range_and_a_folder_for_the_split(root, tmp_path):
    assert len(open_reader(root / "00001.tar", "pairs", "train", BadSamples())) == 4
    assert len(open_reader(root / "{00001..00002}.tar", "pairs", "train", BadSamples())) == 8
    (root / "train").mkdir()
    for path in root.glob("*.tar"):
        path.rename(root / "train" / path.name)
    assert len(open_reader(root, "pairs", "train", BadSamples())) == 12


def test_shards_that_webdataset_wrote(tmp_path, jpeg):
    with webdataset.TarWriter(str(tmp_path / "a-000.tar")) as sink:
        for number in range(3):
            sink.write({"__key__": f"part/sample{number}", "jpg": jpeg(number), "txt": f"text {number}"})
    assert captions(open_reader(tmp_path, "pairs", "train", BadSamples())) == ["text 0", "text 1", "text 2"]


def test_a_caption_in_json_alone_and_png(tmp_path, jpeg):
    rows = [{"png": jpeg(1, kind="PNG"), "json": b'{"caption": "from json"}'}]
    shard(tmp_path / "00000.tar", rows)
    assert captions(open_reader(tmp_path, "pairs", "train", BadSamples())) == ["from json"]


def test_the_index_is_made_once_and_again_when_the_shard_changes(root, own_cache, jpeg):
    open_reader(root, "pairs", "train", BadSamples())
    kept = {path: path.stat().st_mtime_ns for path in (own_cache / "tar").iterdir()}
    assert len(kept) == 3
    open_reader(root, "pairs", "train", BadSamples())
    assert {path: path.stat().st_mtime_ns for path in (own_cache / "tar").iterdir()} == kept
    shard(root / "00000.tar", [{"jpg": jpeg(5), "txt": b"new"}])
    assert captions(open_reader(root, "pairs", "train", BadSamples()))[0] == "new"


def test_a_torn_index_is_made_again(root, own_cache):
    open_reader(root, "pairs", "train", BadSamples())
    for path in (own_cache / "tar").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert len(open_reader(root, "pairs", "train", BadSamples())) == 12


def counted(root: Path, split: str = "train") -> tuple[list[str], dict[str, int]]:
    bad = BadSamples(max_ratio=1.0)
    return captions(open_reader(root, "pairs", split, bad)), bad.counts


def test_a_truncated_shard_loses_what_others_have_more(root):
    path = root / "00001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    found, counts = counted(root)
    lost = 12 - len(found)
    assert 0 < lost <= 4
    assert counts == {"truncated tar": lost}
    with pytest.raises(DataError, match=f"{lost} of 12 samples cannot be used"):
        open_reader(root, "pairs", "train", BadSamples())


def test_a_shard_cut_inside_its_first_header(root):
    (root / "00001.tar").write_bytes(b"not a tar")
    found, counts = counted(root)
    assert len(found) == 8
    assert counts == {"truncated tar": 4}


def test_damage_in_the_middle_of_a_shard(root):
    path = root / "00001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        second = tar.getmember("000010001.jpg").offset
    data[second : second + 512] = b"\xaa" * 512
    path.write_bytes(bytes(data))
    found, counts = counted(root)
    assert len(found) == 9
    assert counts == {"corrupt tar": 3}


def test_a_gap_in_the_numbers_a_range_and_stats_tell_of_missing_shards(root):
    (root / "00001.tar").unlink()
    assert counted(root)[1] == {"missing shard": 4}
    assert counted(root / "{00000..00003}.tar")[1] == {"missing shard": 8}
    (root / "00003_stats.json").write_text(json.dumps({"successes": 9}))
    assert counted(root)[1] == {"missing shard": 13}


def test_fewer_samples_than_the_stats_say(root):
    (root / "00000_stats.json").write_text(json.dumps({"successes": 6}))
    assert counted(root)[1] == {"samples missing from a shard": 2}


def test_other_keys_and_empty_captions_are_counted(tmp_path, jpeg):
    rows = [
        {"jpg": jpeg(0), "txt": b"fine"},
        {"jpeg2000": b"x", "caption": b"other keys"},
        {"jpg": jpeg(1), "txt": b""},
        {"txt": b"no image"},
        {"jpg": jpeg(2), "txt": b"   "},
        {"jpg": jpeg(3), "txt": b"\xff\xfe"},
        {"jpg": jpeg(4), "json": b'["no", "mapping"]'},
    ]
    shard(tmp_path / "00000.tar", rows)
    bad = BadSamples(max_ratio=1.0)
    reader = open_reader(tmp_path, "pairs", "train", bad)
    assert bad.counts == {"sample with other keys": 2, "no or empty txt": 1}
    assert reader[0].caption == "fine"
    for number, reason in ((1, "empty caption"), (2, "unreadable caption"), (3, "unreadable caption")):
        with pytest.raises(BadSample, match=reason):
            reader[number]


def test_a_folder_of_shards_with_other_keys_only(tmp_path):
    shard(tmp_path / "00000.tar", [{"txt": b"a", "npy": b"x"}, {"txt": b"b", "npy": b"y"}])
    with pytest.raises(DataError, match="no usable sample: 2 × sample with other keys"):
        open_reader(tmp_path, "pairs", "train", BadSamples(max_ratio=1.0))


def test_class_shards(tmp_path, jpeg):
    rows = [{"jpg": jpeg(0), "cls": b"3"}, {"jpg": jpeg(1), "cls": b"cat"}, {"jpg": jpeg(2), "cls": b"12\n"}]
    shard(tmp_path / "imagenet-val-000000.tar", rows)
    assert detect(tmp_path, "labels") == "webdataset-classes"
    reader = open_reader(tmp_path, "labels", "val", BadSamples(), num_classes=10)
    assert (reader[0].label, reader[0].image.read()) == (3, jpeg(0))
    with pytest.raises(BadSample, match="not a number"):
        reader[1]
    with pytest.raises(BadSample, match=r"outside 0 ... 9"):
        reader[2]


def tar_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_members_of_one_name_are_samples_of_their_own(tmp_path, jpeg):
    path = tar_of(
        tmp_path / "0.tar",
        *((f"x.{ending}", data) for n in range(3) for ending, data in (("jpg", jpeg(n)), ("txt", f"{n}!".encode()))),
    )
    reader = open_reader(path, "pairs", "train", BadSamples())
    assert captions(reader) == ["0!", "1!", "2!"]
    assert [reader[n].image.read() for n in range(3)] == [jpeg(n) for n in range(3)]


def test_members_may_lie_apart(tmp_path, jpeg):
    images = [(f"{n}.jpg", jpeg(n)) for n in range(3)]
    path = tar_of(tmp_path / "0.tar", *images, *((f"{n}.txt", f"{n}!".encode()) for n in range(3)))
    reader = open_reader(path, "pairs", "train", BadSamples())
    assert captions(reader) == ["0!", "1!", "2!"]
    assert [reader[n].image.read() for n in range(3)] == [jpeg(n) for n in range(3)]


def test_what_macos_puts_beside_is_passed_over(tmp_path, jpeg):
    members = [("./._0.jpg", b"Mac OS X"), ("./0.jpg", jpeg()), ("./._0.txt", b"Mac OS X"), ("./0.txt", b"a cat")]
    reader = open_reader(tar_of(tmp_path / "0.tar", *members, (".DS_Store", b"x")), "pairs", "train", BadSamples())
    assert captions(reader) == ["a cat"]


def test_a_compressed_shard_is_named(tmp_path, jpeg):
    import gzip

    good = tar_of(tmp_path / "0.tar", ("0.jpg", jpeg()), ("0.txt", b"a cat"))
    (tmp_path / "1.tar").write_bytes(gzip.compress(good.read_bytes()))
    with pytest.raises(DataError, match="compressed tar, to be unpacked with gunzip"):
        open_reader(tmp_path, "pairs", "train", BadSamples())
