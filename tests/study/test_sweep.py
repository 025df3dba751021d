from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import expert_key, save, tiny, tiny_base, tiny_grams
from vlmerge_cli import records
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.errors import PlanError, UsageError
from vlmerge_cli.study import sweep
from vlmerge_cli.study.merged import Merging


@pytest.mark.parametrize(
    ("text", "values"),
    [("0.5", [0.5]), ("0,1", [0.0, 1.0]), ("0:1:0.5", [0.0, 0.5, 1.0]), ("0:1:0.3", [0.0, 0.3, 0.6, 0.9]),
     ("0:0.3:0.1", [0.0, 0.1, 0.2, 0.3])],
)  # fmt: skip
def test_values(text: str, values: list[float]) -> None:
    assert sweep.values_of(text, "--alpha") == values


@pytest.mark.parametrize("text", ["a", "0:1", "1:0:0.1", "0:1:0", "0:1:-1", "0:1:1e-9", ""])
def test_what_is_no_range_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--alpha"):
        sweep.values_of(text, "--alpha")


def test_a_grid_has_every_combination() -> None:
    found = sweep.grid({"alpha": "0,1", "vl_ratio": "0.1,0.2", "lam": None, "flag": True}, {})
    assert len(found) == 4
    assert found[1] == {"alpha": 0.0, "vl_ratio": 0.2, "flag": True}


class Judge:
    """Scores a checkpoint by its size and first merged weight; remembers what it was shown."""

    def __init__(self, fails_at: int = 99) -> None:
        self.seen: list[str] = []
        self.fails_at = fails_at

    def __call__(self, path: str) -> dict[str, float]:
        if len(self.seen) == self.fails_at:
            raise KeyboardInterrupt
        with open_checkpoint(path) as checkpoint:
            about: dict[str, Any] = checkpoint.about()
        self.seen.append(path)
        alpha = about.get("recipe", {}).get("settings", {}).get("alpha", -1.0)
        return {"score": 10 - 40 * (alpha - 0.5) ** 2}


def points() -> list[dict[str, Any]]:
    return sweep.grid({"alpha": "0:1:0.25"}, {})


def test_experts_of_different_types_are_swept_as_one(tmp_path: Path) -> None:
    key = expert_key(1, "mlp.fc1.weight", "v")
    tensors = {**tiny(), key: tiny()[key].astype(np.float64)}
    merging = Merging(str(save(tmp_path / "mixed.safetensors", tensors)), "interpolation")
    with pytest.raises(PlanError, match="v is F64"):
        sweep.run(merging, points(), sweep.Scored({}, "score", Judge()), tmp_path / "a")
    found = sweep.run(replace(merging, dtype="float32"), points(), sweep.Scored({}, "score", Judge()), tmp_path / "b")
    assert found[1].at["merge"]["dtype"] == "float32"


def test_a_sweep_is_scored_and_goes_on_where_it_was_stopped(ckpt: Path, tmp_path: Path) -> None:
    merging = Merging(str(ckpt), "interpolation")
    stopped = Judge(fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(merging, points(), sweep.Scored({"task": "t"}, "score", stopped), tmp_path)
    assert len(list(records.read(tmp_path / sweep.FILE_NAME))) == 3  # as it is, 0 and 0.25
    rest = Judge()
    found = sweep.run(merging, points(), sweep.Scored({"task": "t"}, "score", rest), tmp_path)
    assert len(rest.seen) == 3
    assert [record.values["score"] for record in found[1:]] == [0.0, 7.5, 10.0, 7.5, 0.0]
    assert sweep.best(found, "score").at["merge"]["settings"]["alpha"] == 0.5
    assert [sweep.describe(record.at) for record in found][:2] == ["as it is", sweep.describe(found[1].at)]
    assert sorted(path.name for path in tmp_path.iterdir() if "sweep" in path.name or "merged" in path.name) == [
        sweep.FILE_NAME
    ]
    nothing = Judge()
    assert sweep.run(merging, points(), sweep.Scored({"task": "t"}, "score", nothing), tmp_path) == found
    assert nothing.seen == []
    other = Judge()
    sweep.run(merging, points()[:1], sweep.Scored({"task": "another"}, "score", other), tmp_path)
    assert len(other.seen) == 2


def test_another_base_of_the_same_name_is_scored_anew(tmp_path: Path) -> None:
    tensors = tiny()
    source, base = save(tmp_path / "ckpt.safetensors", tensors), save(tmp_path / "base.safetensors", tiny_base(tensors))
    how = sweep.Scored({"task": "t"}, "score", Judge())

    def found() -> tuple[list[records.Record], int]:
        judge = Judge()
        merging = Merging(str(source), "arithmetic", {}, str(base))
        return sweep.run(merging, [{"lam": 0.5}], replace(how, score=judge), tmp_path / "out"), len(judge.seen)

    first, num = found()
    assert num == 2
    assert found() == (first, 0)
    save(base, tiny_base(tensors, seed=3))
    second, num = found()
    assert num == 2
    assert first[1].at["inputs"] != second[1].at["inputs"]
    base.rename(tmp_path / "moved.safetensors")
    base = tmp_path / "moved.safetensors"
    assert found()[1] == 0, "a name is not what went in"


def test_other_grams_beside_the_checkpoint_are_scored_anew(tmp_path: Path) -> None:
    tensors = tiny()
    source = save(tmp_path / "ckpt.safetensors", tensors)

    def found(seed: int) -> int:
        save(tmp_path / "ckpt.grams.safetensors", tiny_grams(tensors, seed))
        judge = Judge()
        sweep.run(Merging(str(source), "regmean"), [{"gamma": 0.5}], sweep.Scored({}, "score", judge), tmp_path / "out")
        return len(judge.seen)

    assert [found(1), found(1), found(2)] == [2, 0, 2]


def test_other_experts_are_scored_anew(ckpt: Path, tmp_path: Path) -> None:
    """Retrieval merges fewer experts in the top layers, so what it scored is another model's."""

    def found(experts_for: str | None) -> int:
        judge = Judge()
        merging = Merging(str(ckpt), "interpolation", experts_for=experts_for)
        sweep.run(merging, [{"alpha": 0.5}], sweep.Scored({}, "score", judge), tmp_path / "out")
        return len(judge.seen)

    assert [found(None), found("retrieval"), found("retrieval"), found(None)] == [2, 1, 0, 0]
