from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.conftest import build
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import preset
from vlmerge_cli.study.digests import of_checkpoint, of_data
from vlmerge_cli.study.run import Study, run
from vlmerge_cli.study.settings import StudySettings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "captions.json").write_text("[1, 2]")
    (folder / "images" / "1.png").write_bytes(b"12345")
    return folder


def test_data_count_by_what_they_hold(data: Path) -> None:
    first = of_data([str(data)])
    assert of_data([f"coco={data}"]) == first, "a name is not content"
    assert of_data([str(data.rename(data.with_name("moved")))]) == first
    data = data.with_name("moved")
    assert of_data([f"{data}:0.5"]) != first
    seen = {first}
    (data / "captions.json").write_text("[1, 3]")
    seen.add(of_data([str(data)]))
    (data / "images" / "1.png").write_bytes(b"123456")
    seen.add(of_data([str(data)]))
    (data / "images" / "2.png").write_bytes(b"")
    seen.add(of_data([str(data)]))
    assert len(seen) == 4
    assert of_data([str(data / "captions.json")]) != of_data([str(data / "images" / "1.png")])


def test_the_built_in_data_count_by_their_options() -> None:
    options = ShapesOptions(train=8)
    assert of_data(["shapes"], options) == of_data(["shapes"], replace(options))
    assert of_data(["shapes"], options) != of_data(["shapes"], replace(options, train=9))
    assert of_data(["shapes"], options) != of_data(["digits"], options)


def test_a_study_whose_inputs_changed_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    model = build(preset("micro", architecture="agnostic", heads=("itc",)))
    model.save_pretrained(start, about={})
    settings = StudySettings(data=(str(data),), pretrain={"init": str(start)})
    study = Study(settings, (1,), [], tmp_path / "study")
    run(study, [], 1, lambda node: 0.0)
    run(study, [], 1, lambda node: 0.0)
    before = of_checkpoint(str(start))
    next(model.parameters()).data.add_(1)
    model.save_pretrained(start, about={})
    assert of_checkpoint(str(start)) != before
    with pytest.raises(UsageError, match=r"start changed since the study"):
        run(study, [], 1, lambda node: 0.0)
    (data / "captions.json").write_text("[2, 2]")
    with pytest.raises(UsageError, match=r"data, .*start changed since"):
        run(study, [], 1, lambda node: 0.0)
