"""Whose folder a run may take, what --force removes, and which state is gone on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import fails, ok
from vlmerge_cli.errors import DataError, UsageError
from vlmerge_cli.outputs import lock
from vlmerge_cli.training import state
from vlmerge_cli.training.pretrain import Run, pretrain

Train = Callable[..., Path]


def forced(folder: Path, config: Callable[..., Any], **changes: Any) -> Path:
    return pretrain(Run(config(**changes), folder), force=True)


def test_force_takes_no_folder_that_holds_no_run(config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="holds no run of vlmerge"):
        forced(tmp_path / "thesis", config)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "years"


def test_force_takes_neither_the_current_folder_nor_one_above(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "pretrain.yaml").touch()  # even if it were ours
    monkeypatch.chdir(here)
    for path in (Path(), Path(".."), tmp_path):
        with pytest.raises(UsageError, match=r"cannot be replaced|the current folder or one above it"):
            forced(path, config)
    assert here.is_dir()


def test_force_removes_what_runs_leave_and_nothing_else(train: Train, config: Callable[..., Any]) -> None:
    folder = train("run", steps=2)
    (folder / "notes.txt").write_text("mine")
    (folder / "seed").mkdir()
    forced(folder, config, steps=1)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "seed").exists()
    assert [path.name for path in state.saved(folder / "state")] == ["step-00000001"]


def test_an_input_in_the_folder_is_safe(train: Train, config: Callable[..., Any], pairs: Path) -> None:
    folder = train("run", steps=1)
    for changes in ({"init": str(folder)}, {"init": str(folder / "model.safetensors")}):
        with pytest.raises(UsageError, match=r"the output .* (is|holds) an input"):
            forced(folder, config, steps=1, **changes)
    shutil.copytree(pairs, folder / "data")
    with pytest.raises(UsageError, match="holds an input"):
        forced(folder, config, steps=1, data=[str(folder / "data")])
    assert (folder / "model.safetensors").exists()


def test_nothing_is_removed_before_all_inputs_are_open(train: Train, config: Callable[..., Any]) -> None:
    folder = train("run", steps=1)
    with pytest.raises(DataError):
        forced(folder, config, data=["/nowhere/at/all"])
    assert (folder / "model.safetensors").exists()
    assert state.saved(folder / "state")


def test_a_folder_in_which_another_process_trains(train: Train, config: Callable[..., Any], tmp_path: Path) -> None:
    with lock.alone(tmp_path / "run"), pytest.raises(UsageError, match=r"process \d+ on .* works in"):
        train("run", steps=1)
    assert train("run", steps=1).exists()


@pytest.mark.parametrize("what", ["position", "metadata", "cut", "gone"])
def test_a_torn_state_gives_way_to_the_one_before_it(
    what: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"steps": 20, "saving.keep": 2}
    whole = train("whole", **changes)
    folder = train("torn", **changes)
    newest = state.saved(folder / "state")[-1]
    part = next(newest.glob("*.distcp"))
    {
        "position": lambda: (newest / "position.json").write_text("{"),
        "metadata": lambda: (newest / ".metadata").unlink(),
        "cut": lambda: part.write_bytes(part.read_bytes()[:1000]),
        "gone": part.unlink,
    }[what]()
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    train("torn", resume=True, **changes)
    said = capsys.readouterr().err
    assert f"{newest} is not whole" in said
    assert "going on from" in said
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years")
    words = ["pretrain", "--model", "micro", "--steps", "1", "--device", "cpu", "--out"]
    assert "holds no run of vlmerge" in fails(2, *words, tmp_path / "thesis", "--force")
    ok(*words, tmp_path / "again")
    said = fails(2, *words, tmp_path / "again", "--init", tmp_path / "again", "--force")
    assert "an input" in said
    assert (tmp_path / "again" / "model.safetensors").exists()
