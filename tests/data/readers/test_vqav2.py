import json
from pathlib import Path

import pytest

from vlmerge_cli.data.answers import AnswerVocabulary
from vlmerge_cli.data.bad import BadSamples
from vlmerge_cli.data.readers import open_reader
from vlmerge_cli.errors import DataError


@pytest.fixture
def root(tmp_path: Path, jpeg) -> Path:
    """train2014: images 1, 2; val2014: images 11, 12, 13; test2015: image 21; one or two questions each."""
    write(tmp_path, "train2014", {1: ["yes"] * 10, 2: ["no"] * 10}, jpeg)
    write(tmp_path, "val2014", {11: ["yes"] * 10, 12: ["two"] * 6 + ["2"] * 4, 13: ["odd"] * 10}, jpeg)
    write(tmp_path, "test2015", {21: None}, jpeg)
    return tmp_path


def write(root: Path, subset: str, answers: dict, jpeg) -> None:
    (root / subset).mkdir(exist_ok=True)
    asked, notes = [], []
    for image, said in answers.items():
        (root / subset / f"COCO_{subset}_{image:012d}.jpg").write_bytes(jpeg(image))
        asked.append({"question_id": 10 * image, "image_id": image, "question": f"what is {image}?"})
        if said:
            notes.append(
                {
                    "question_id": 10 * image,
                    "image_id": image,
                    "multiple_choice_answer": said[0],
                    "question_type": "what is",
                    "answer_type": "other",
                    "answers": [{"answer": a, "answer_id": n, "answer_confidence": "yes"} for n, a in enumerate(said)],
                }
            )
    (root / f"v2_OpenEnded_mscoco_{subset}_questions.json").write_text(json.dumps({"questions": asked}))
    if notes:
        (root / f"v2_mscoco_{subset}_annotations.json").write_text(json.dumps({"annotations": notes}))


def ids(reader) -> list[int]:
    return [reader[number].question_id for number in range(len(reader))]


def test_a_question_and_the_vocabulary_of_train_and_val(root):
    reader = open_reader(root, "questions", "train", BadSamples(), num_answers=10)
    assert reader.vocabulary.labels == ("yes", "no", "2", "odd")
    question = reader[0]
    assert (question.question, question.answers) == ("what is 1?", ("yes",) * 10)
    assert (question.question_type, question.answer_type) == ("what is", "other")
    assert Path(str(question.image)).name == "COCO_train2014_000000000001.jpg"


def test_small_val_stays_whole_and_a_large_one_gives_all_but_the_last_images_to_train(root):
    assert ids(open_reader(root, "questions", "train", BadSamples(), num_answers=10)) == [10, 20]
    assert ids(open_reader(root, "questions", "val", BadSamples(), num_answers=10)) == [110, 120, 130]
    options = {"num_answers": 10, "held_out_images": 2}
    assert ids(open_reader(root, "questions", "train", BadSamples(), **options)) == [10, 20, 110]
    assert ids(open_reader(root, "questions", "val", BadSamples(), **options)) == [120, 130]


def test_training_drops_what_has_no_label_and_validation_keeps_it(root):
    answers = AnswerVocabulary(("yes",))
    train = open_reader(root, "questions", "train", BadSamples(), answers=answers)
    assert (ids(train), train.num_dropped) == ([10], 1)
    assert ids(open_reader(root, "questions", "val", BadSamples(), answers=answers)) == [110, 120, 130]


def test_targets_are_of_raw_answers(root):
    reader = open_reader(root, "questions", "val", BadSamples(), num_answers=10)
    assert reader.vocabulary.target(reader[1].answers).tolist() == [
        0.0,
        0.0,
        1.0,
        0.0,
    ]  # four of ten said "2"


def test_questions_without_answers_can_be_asked(root):
    reader = open_reader(root, "questions", "test", BadSamples(), answers=AnswerVocabulary(("yes",)))
    assert ids(reader) == [210]
    assert reader[0].answers == ()
    assert open_reader(root, "questions", "test", BadSamples(), num_answers=2).vocabulary.labels == (
        "yes",
        "no",
    )


def test_nine_times_are_needed_by_default(root):
    with pytest.raises(DataError, match="no answer occurs 9 times among 5"):
        open_reader(root, "questions", "train", BadSamples())


def test_what_is_wrong_is_counted(root):
    (root / "train2014" / "COCO_train2014_000000000002.jpg").unlink()
    file = root / "v2_mscoco_train2014_annotations.json"
    notes = json.loads(file.read_text())
    notes["annotations"].append({**notes["annotations"][0], "question_id": 999})
    file.write_text(json.dumps(notes))
    questions = root / "v2_OpenEnded_mscoco_train2014_questions.json"
    asked = json.loads(questions.read_text())
    asked["questions"].append({"question_id": 30, "image_id": 1, "question": "what?"})
    questions.write_text(json.dumps(asked))
    bad = BadSamples(max_ratio=1.0)
    assert ids(open_reader(root, "questions", "train", bad, num_answers=10)) == [10]
    assert bad.counts == {
        "missing image": 1,
        "annotation without a question": 1,
        "question without an annotation": 1,
    }
    with pytest.raises(DataError, match="3 of 4"):
        open_reader(root, "questions", "train", BadSamples(), num_answers=10)


def test_a_file_without_its_list(root):
    (root / "v2_mscoco_val2014_annotations.json").write_text("{}")
    with pytest.raises(DataError, match="no list 'annotations'"):
        open_reader(root, "questions", "train", BadSamples())


def test_the_karpathy_split_is_by_image(root):
    """Appendix A of the paper: images 1 and 12 are Karpathy's train, 11 restval, 2 and 13 val."""
    split_of = {("train2014", 1): "train", ("val2014", 12): "train", ("val2014", 11): "restval",
                ("train2014", 2): "val", ("val2014", 13): "val"}  # fmt: skip
    entries = [{"filename": f"COCO_{subset}_{n:012d}.jpg", "filepath": subset, "split": split, "sentences": []}
               for (subset, n), split in split_of.items()]  # fmt: skip
    (root / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    options = {"num_answers": 10, "vqa_split": "karpathy"}
    assert ids(open_reader(root, "questions", "train", BadSamples(), **options)) == [10, 120]
    assert ids(open_reader(root, "questions", "train", BadSamples(), restval=True, **options)) == [10, 110, 120]
    assert ids(open_reader(root, "questions", "val", BadSamples(), **options)) == [20, 130]
    assert ids(open_reader(root, "questions", "test", BadSamples(), **options)) == [210]
    (root / "dataset_coco.json").unlink()
    with pytest.raises(DataError, match=r"no dataset_coco\.json, which says what is of which split"):
        open_reader(root, "questions", "train", BadSamples(), **options)


def changed(root: Path, what: str, change) -> Path:
    """Every row of the questions or annotations through ``change``."""
    for path in root.glob(f"*_{what}.json"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps({what: [change(dict(row)) for row in document[what]]}))
    return root


def without(name: str):
    return lambda row: {key: value for key, value in row.items() if key != name}


def test_ids_as_text_and_answers_as_plain_texts(root):
    right = open_reader(root, "questions", "train", BadSamples(), num_answers=10)
    changed(
        root, "questions", lambda row: row | {"image_id": str(row["image_id"]), "question_id": str(row["question_id"])}
    )
    changed(root, "annotations", lambda row: row | {"answers": [answer["answer"] for answer in row["answers"]]})
    found = open_reader(root, "questions", "train", BadSamples(), num_answers=10)
    assert [found[n] for n in range(len(found))] == [right[n] for n in range(len(right))]


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        ("questions", without("question_id"), "row 0 has no 'question_id'"),
        ("questions", without("image_id"), "row 0 has no 'image_id'"),
        ("questions", without("question"), "row 0 has no 'question'"),
        ("questions", lambda row: row | {"image_id": "first"}, "row 0: 'image_id' is 'first', not a whole number"),
        ("questions", lambda row: row | {"image_id": 1.5}, "row 0: 'image_id' is 1.5, not a whole number"),
        ("questions", lambda row: [row], "row 0 is list, not an object"),
        ("annotations", without("question_id"), "row 0 has no 'question_id'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(root, what, change, words):
    with pytest.raises(DataError, match=words) as error:
        open_reader(changed(root, what, change), "questions", "train", BadSamples(), num_answers=10)
    assert what in error.value.where


def test_answers_without_a_text_are_bad_samples(root):
    changed(root, "annotations", lambda row: row | {"answers": [{"answer": None}]})
    with pytest.raises(DataError, match="answer without a text"):
        open_reader(root, "questions", "train", BadSamples(), num_answers=10)
