import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmerge_cli.data.noise_images import SyntheticImage
from vlmerge_cli.data.unpaired_images_and_texts import images_in, lines_of, unpaired
from vlmerge_cli.errors import DataError


def test_images_and_texts_take_turns(tmp_path: Path, jpeg):
    (tmp_path / "deeper").mkdir()
    for name in ("b.jpg", "a.PNG", "deeper/c.jpeg", "notes.txt"):
        (tmp_path / name).write_bytes(jpeg())
    images = images_in(tmp_path)
    assert [Path(str(image)).name for image in images] == ["a.PNG", "b.jpg", "c.jpeg"]
    data = unpaired("mine", images, ["one", "two"])
    assert [(Path(data[n].key).name, data[n].caption, data[n].image_id) for n in range(3)] == [
        ("a.PNG", "one", 0), ("b.jpg", "two", 1), ("c.jpeg", "one", 2),
    ]  # fmt: skip
    assert len(unpaired("mine", images, [str(n) for n in range(7)])) == 7


def test_texts_are_lines(tmp_path: Path):
    path = tmp_path / "texts.txt"
    path.write_text("\ufeffa dog\n\n  a cat \r\n", encoding="utf-8")
    assert lines_of(path) == ["a dog", "a cat"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        lines_of(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no text in the file"):
        lines_of(path)


def test_no_pictures(tmp_path: Path):
    with pytest.raises(DataError, match="no picture in the folder"):
        images_in(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        images_in(tmp_path / "none")


def test_synthetic_pictures_are_drawn_by_seed_and_number():
    picture = SyntheticImage(3, 5, 32)
    with Image.open(io.BytesIO(picture.read())) as opened:
        pixels = np.asarray(opened)
    assert pixels.shape == (32, 32, 3)
    assert (pixels == picture.pixels()).all()
    assert (pixels == SyntheticImage(3, 5, 32).pixels()).all()
    assert (pixels != SyntheticImage(3, 7, 32).pixels()).any()


def test_synthetic_pictures_have_neighbours_alike_and_colours_of_all_kinds():
    made = np.stack([SyntheticImage(0, number, 32).pixels() for number in range(200)]).astype(float)
    steps = np.abs(np.diff(made, axis=1)).mean((1, 2, 3))
    spread = made.std((1, 2, 3))
    assert np.median(steps / spread) < 0.6  # white noise has 1.13
    assert made.mean((1, 2)).std() > 40
