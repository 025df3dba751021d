import pytest

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.loader import Loader
from vlmerge_cli.data.prepare import Form
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.data.source_spec import Spec, parse
from vlmerge_cli.data.sources import open_data
from vlmerge_cli.data.tokenizer import load
from vlmerge_cli.errors import DataError, UsageError

SMALL = ShapesOptions(image_px=16, train=24, val=8, test=8)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("shapes", Spec("shapes", "shapes")),
        ("/data/coco", Spec("coco", "/data/coco")),
        ("coco=/data/x:0.4", Spec("coco", "/data/x", 0.4)),
        ("/data/x:2", Spec("x", "/data/x", 2.0)),
        ("a=/odd:name/x", Spec("a", "/odd:name/x")),
        ("cc=/d/{00000..00331}.tar:.5", Spec("cc", "/d/{00000..00331}.tar", 0.5)),
        ("digits:0.5", Spec("digits", "digits", 0.5)),
    ],
)
def test_parse(text, spec):
    assert parse(text) == spec


@pytest.mark.parametrize("text", ["", "name=", "x:0", "x:-1", "x:inf", ":0.5"])
def test_what_cannot_be_parsed(text):
    with pytest.raises(UsageError):
        parse(text)


def test_shapes_and_digits_mix_by_weight_and_are_made_when_asked_for(own_cache):
    data = open_data(["shapes:0.75", "digits:0.25"], "pairs", "train", BadSamples(), shapes=SMALL)
    assert [len(source.reader) for source in data.sources] == [120, 120]
    assert len(list(own_cache.iterdir())) == 2
    loader = Loader(data, Form(0, load("bundled", 20)), 64)
    texts = [ids for batch in loader.steps(0, 10) for ids in batch.text.tolist()]
    digits = [any(7 <= token <= 16 for token in ids) for ids in texts]  # ids of "0" ... "9"
    assert sum(digits) / len(digits) == pytest.approx(0.25, abs=0.05)
    ids = data.image_ids()
    assert ids.max() == 47
    assert len(data.images()) == 48


def test_nothing_asked_for_is_the_built_in_data_set():
    assert open_data([], "pairs", "val", BadSamples(), shapes=SMALL).sources[0].name == "shapes"


def test_without_weights_each_source_counts_by_its_size(small_shapes):
    root = small_shapes[1]
    data = open_data([str(root / "coco"), str(root / "shards")], "pairs", "train", BadSamples())
    assert [source.weight for source in data.sources] == [240.0, 48.0]


def test_weights_for_some_sources_only_are_refused(small_shapes):
    root = small_shapes[1]
    with pytest.raises(UsageError, match="shards has no weight"):
        open_data([f"{root / 'coco'}:0.5", str(root / "shards")], "pairs", "train", BadSamples())


def test_a_path_with_nothing_in_it_and_one_with_another_kind(small_shapes, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_data([str(tmp_path / "none")], "pairs", "train", BadSamples())
    with pytest.raises(DataError, match="nothing that can be read"):
        open_data([str(tmp_path)], "pairs", "train", BadSamples())
    with pytest.raises(DataError, match=r"no masks here, only .*nlvr2 \(statements\)"):
        open_data([str(small_shapes[1] / "nlvr2")], "masks", "train", BadSamples())


def test_every_source_is_judged_by_itself(small_shapes, tmp_path):
    """A small broken source is not hidden by a large good one."""
    import shutil

    broken = tmp_path / "shards"
    shutil.copytree(small_shapes[1] / "shards", broken)
    (broken / "00001.tar").unlink()
    with pytest.raises(DataError, match="missing shard"):
        open_data([str(small_shapes[1] / "coco"), str(broken)], "pairs", "train", BadSamples(max_ratio=0.2))
    bad = BadSamples(max_ratio=0.5)
    open_data([str(small_shapes[1] / "coco"), str(broken)], "pairs", "train", bad)
    assert bad.counts == {"missing shard": 16}
    assert bad.total == 240 + 48
