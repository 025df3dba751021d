from pathlib import Path

import pytest

from vlmerge_cli.data.answers import SOFT_TARGET
from vlmerge_cli.data.bad import BadSample, BadSamples
from vlmerge_cli.data.readers import detect, open_reader
from vlmerge_cli.errors import DataError

pyarrow = pytest.importorskip("pyarrow")


def write(path: Path, **columns: list) -> None:
    table = pyarrow.table(columns)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table)


def test_captions_and_which_files_belong_to_a_split(tmp_path, jpeg):
    for number, name in enumerate(("train", "restval", "val", "test")):
        write(
            tmp_path / f"coco_caption_karpathy_{name}.arrow",
            image=[jpeg(number)],
            caption=[[f"{name} one", f"{name} two", f"{name} one"]],
            image_id=[f"{name}.jpg"],
            split=[name],
        )
    write(tmp_path / "vg.arrow", image=[jpeg(9)], caption=[["a phrase"]], image_id=["9"])
    assert detect(tmp_path, "pairs") == "arrow-captions"

    def texts(split: str, **options) -> list[str]:
        reader = open_reader(tmp_path, "pairs", split, BadSamples(), **options)
        return [reader[number].caption for number in range(len(reader))]

    assert texts("train") == ["train one", "train two", "a phrase"]
    assert texts("train", restval=True) == [
        "restval one",
        "restval two",
        "train one",
        "train two",
        "a phrase",
    ]
    assert texts("val") == ["val one", "val two"]
    reader = open_reader(tmp_path, "pairs", "test", BadSamples())
    assert reader[1].image.read() == jpeg(3)
    assert reader.image_ids.tolist() == [0, 0]


def test_questions_give_the_soft_targets_of_the_file(tmp_path, jpeg):
    write(
        tmp_path / "vqav2_train.arrow",
        image=[jpeg(0), jpeg(1)],
        questions=[["q1", "q2"], ["q3"]],
        answers=[[["yes", "no"], ["red"]], [["no"]]],
        answer_labels=[[[0, 2], [1]], [[2]]],
        answer_scores=[[[1.0, 0.3], [0.6]], [[0.9]]],
        image_id=["a", "b"],
        question_id=[[11, 12], [13]],
        split=["train", "train"],
    )
    write(
        tmp_path / "vqav2_test.arrow",
        image=[jpeg(2)],
        questions=[["q4"]],
        image_id=["c"],
        question_id=[[14]],
    )
    reader = open_reader(tmp_path, "questions", "train", BadSamples())
    assert reader.vocabulary.labels == ("yes", "red", "no")
    targets = [reader.vocabulary.target(reader[number].answers).tolist() for number in range(3)]
    assert targets == [pytest.approx(row) for row in ([1.0, 0, SOFT_TARGET[1]], [0, 0.6, 0], [0, 0, 0.9])]
    assert [reader[number].question_id for number in range(3)] == [11, 12, 13]
    assert reader[2].image.read() == jpeg(1)
    assert open_reader(tmp_path, "questions", "test", BadSamples())[0].question == "q4"


def test_statements(tmp_path, jpeg):
    write(
        tmp_path / "nlvr2_dev.arrow",
        image_0=[jpeg(0)],
        image_1=[jpeg(1)],
        questions=[["one", "two"]],
        answers=[["True", "False"]],
        identifier=["dev-3-1"],
    )
    reader = open_reader(tmp_path, "statements", "val", BadSamples())
    assert [(one.text, one.label) for one in map(reader.__getitem__, range(2))] == [
        ("one", True),
        ("two", False),
    ]
    assert reader[1].right.read() == jpeg(1)
    with pytest.raises(DataError, match="no file of split 'test'"):
        open_reader(tmp_path, "statements", "test", BadSamples())


def test_what_is_wrong(tmp_path, jpeg):
    write(tmp_path / "vg.arrow", image=[jpeg(0), None, jpeg(2)], caption=[["fine"], ["no image"], [""]])
    bad = BadSamples(max_ratio=1.0)
    reader = open_reader(tmp_path, "pairs", "train", bad)
    assert bad.counts == {"empty caption": 1}
    with pytest.raises(BadSample, match="missing image"):
        reader[1].image.read()
    file = tmp_path / "cut.arrow"
    file.write_bytes((tmp_path / "vg.arrow").read_bytes()[:200])
    with pytest.raises(DataError, match="not an Arrow file"):
        open_reader(file, "pairs", "train", BadSamples())
