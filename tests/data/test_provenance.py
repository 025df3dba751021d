"""Data that a checkpoint records is found again, whoever moves what."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from vlmerge_cli.data.provenance import found_again, moved, noted, recorded
from vlmerge_cli.data.shapes.scenes import Variant
from vlmerge_cli.data.source_spec import BUILT_IN, is_built_in, parse


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a run, in which the command is started."""
    for name in ("data/coco", "runs/a/best", "elsewhere"):
        (tmp_path / "project" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_relative_data_is_found_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = noted(("data/coco:0.5", "shapes"), Path("runs/a"))
    assert about == {"data": ["data/coco:0.5", "shapes"], "data_at": ["../../data/coco", ""]}
    monkeypatch.chdir(project / "elsewhere")
    found = found_again(about, Path("../runs/a"))
    assert found_again({"data": ["a=data/coco"]}, project / "runs/a") == (f"a={project}/data/coco",)
    assert [parse(text).name for text in found] == ["coco", "shapes"]
    assert [parse(text).weight for text in found] == [0.5, None]
    assert Path(parse(found[0]).path).resolve() == project / "data/coco"
    assert found_again(about, project / "runs/a/best")[0] == f"{project}/data/coco:0.5", "one folder deeper"


def test_data_and_run_move_together(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = noted(("data/coco",), Path("runs/a/model.safetensors"))
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert found_again(about, tmp_path / "moved/runs/a") == (f"{tmp_path}/moved/data/coco",)


def test_older_checkpoints_know_only_the_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "elsewhere")
    assert found_again({"data": ["data/coco"]}, project / "runs/a") == (f"{project}/data/coco",)


def test_a_checkpoint_written_elsewhere_still_leads_to_its_data(project: Path, tmp_path: Path) -> None:
    about = moved({**noted(("data/coco",), Path("runs/a")), "step": 7}, Path("runs/a"), tmp_path / "x/y.safetensors")
    assert about == {"data": ["data/coco"], "data_at": ["../project/data/coco"], "step": 7}
    assert found_again(about, tmp_path / "x/y.safetensors") == (f"{project}/data/coco",)


def test_what_is_nowhere_stays_as_it_was_given(project: Path) -> None:
    assert found_again({"data": ["data/gone"]}, project / "runs/a") == ("data/gone",)
    assert recorded({}) == recorded({"data": [3]}) == ()
    assert recorded({"data": "shapes"}) == ("shapes",)


def test_a_folder_goes_before_the_built_in_data_set_of_its_name(project: Path) -> None:
    assert set(BUILT_IN) == set(get_args(Variant))
    assert is_built_in(("shapes", "digits:2"))
    (project / "shapes").mkdir()
    assert not is_built_in(("shapes",))
