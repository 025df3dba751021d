"""Laws that hold for every format of the table."""

import pytest

from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import READERS, detect, open_reader, reader
from vlmerge_cli.data.samples import KINDS
from vlmerge_cli.data.shapes.options import PART_OF


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_what_its_line_says(name, tmp_path):
    cls = reader(name)
    assert cls.kind in KINDS
    assert not cls.recognises(tmp_path)
    assert not cls.recognises(tmp_path / "none")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_built_in_data_set_is_read_as_any_other(small_shapes, kind, split):
    options, root = small_shapes
    path = root / PART_OF[kind]
    assert detect(path, kind) in READERS
    bad = BadSamples()
    opened = open_reader(path, kind, split, bad, check="whole", num_answers=100)
    each = {"pairs": 5, "questions": 4}.get(kind, 1)
    assert len(opened) == each * options.num_images()[split]
    assert bad.num_bad == 0
    for index in range(len(opened)):
        opened[index]
