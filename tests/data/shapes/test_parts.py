import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.errors import DataError, UsageError

PARTS = ("coco", "shards", "nlvr2", "classes", "ade20k")
TINY = "ShapesOptions(image_px=12, train=8, val=8, test=8, variant='digits')"


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_another_process_writes_the_same_bytes(tmp_path: Path):
    code = (
        "from pathlib import Path; from vlmerge_cli.data.shapes.cached import folder\n"
        "from vlmerge_cli.data.shapes.options import ShapesOptions\n"
        f"[folder({TINY}, part, Path({str(tmp_path / 'b')!r})) for part in {PARTS}]"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={"PYTHONHASHSEED": "7", "PATH": ""})
    for part in PARTS:
        folder(eval(TINY), part, tmp_path / "a")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) > 100


def test_it_is_made_once(small_shapes):
    options, root = small_shapes
    before = (root / "coco" / "dataset_coco.json").stat().st_mtime_ns
    assert folder(options, "coco", root.parent) == root / "coco"
    assert (root / "coco" / "dataset_coco.json").stat().st_mtime_ns == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path):
    options = ShapesOptions(image_px=12, train=8, val=8, test=8)
    made = folder(options, "classes", tmp_path)
    (made / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="not the data set"):
        folder(options, "classes", tmp_path)


@pytest.mark.parametrize("wrong", [{"num_things": (0, 2)}, {"num_things": (1, 5)}, {"train": 1}, {"variant": "cats"}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        ShapesOptions(**wrong)


def test_karpathy_and_vqa_files_have_the_published_fields(small_shapes):
    _, root = small_shapes
    document = json.loads((root / "coco" / "dataset_coco.json").read_text())
    row = document["images"][0]
    assert set(row) == {"filepath", "filename", "imgid", "split", "cocoid", "sentids", "sentences"}
    assert set(row["sentences"][0]) == {"raw", "tokens", "imgid", "sentid"}
    assert (root / "coco" / row["filepath"] / row["filename"]).is_file()
    assert len({sentence["sentid"] for one in document["images"] for sentence in one["sentences"]}) == 5 * 76
    notes = json.loads((root / "coco" / "v2_mscoco_train2014_annotations.json").read_text())["annotations"]
    assert len(notes) == 48 * 4
    assert len({note["question_id"] for note in notes}) == len(notes)
    assert len(notes[0]["answers"]) == 10


def test_webdataset_reads_the_shards(small_shapes):
    _, root = small_shapes
    shards = str(root / "shards" / "{00000..00002}.tar")
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json"))
    assert len(samples) == 48
    image, text, facts = samples[0]
    assert image.size == (16, 16)
    assert facts["caption"] == text


def test_masks_and_images_agree_in_size_and_name(small_shapes):
    options, root = small_shapes
    for name in ("training", "validation", "testing"):
        images = {path.stem for path in (root / "ade20k" / "images" / name).iterdir()}
        masks = sorted((root / "ade20k" / "annotations" / name).iterdir())
        assert images == {path.stem for path in masks}
        labels = np.asarray(Image.open(masks[0]))
        assert labels.shape == (options.image_px, options.image_px)
        assert labels.max() <= 7


def test_images_of_different_splits_differ(small_shapes):
    _, root = small_shapes
    data = [path.read_bytes() for path in sorted((root / "coco").rglob("*.jpg"))]
    assert len(data) == 76
    assert len(set(data)) == 76
