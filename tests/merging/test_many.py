from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.errors import PlanError
from vlmerge_cli.merging import merge, opening
from vlmerge_cli.merging.many import sweep
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods.method import make

GRID: dict[str, list[dict[str, float]]] = {
    "interpolation": [{"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1.0}],
    "arithmetic": [{"lam": 0.25}, {"lam": 1.0}],
    "regmean": [{"gamma": 0.0}, {"gamma": 0.9}],
}


@pytest.mark.parametrize("method", GRID)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_file_has_the_bytes_of_a_merge_by_itself(method: str, threads: int, ckpt: Path, tmp_path: Path) -> None:
    base = str(ckpt.with_name("base.safetensors")) if method == "arithmetic" else None
    inputs, settings = opening.Inputs(str(ckpt), base), merge.Settings(device="cpu", threads=threads)
    methods = [make(method, point) for point in GRID[method]]
    paths = sweep(inputs, methods, Request(), tmp_path / "many", settings)
    for path, one in zip(paths, methods, strict=True):
        with opening.prepared(inputs, one, Request()) as ready:
            merge.run(ready, Target(tmp_path / f"{path.name}.safetensors", sync=False), settings, lambda _: None)
        expected = (tmp_path / f"{path.name}.safetensors").read_bytes()
        assert (path / "model.safetensors").read_bytes() == expected


def test_the_checkpoint_is_read_once(ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[Any] = Counter()
    inner = Checkpoint.read_into

    def counted(self: Checkpoint, key: str, buffer: Any, offset: int = 0) -> None:
        reads[key, offset] += 1
        inner(self, key, buffer, offset)

    methods = [make("interpolation", {"alpha": alpha / 4}) for alpha in range(5)]
    monkeypatch.setattr(Checkpoint, "read_into", counted)
    sweep(opening.Inputs(str(ckpt)), methods, Request(), tmp_path / "many", merge.Settings(device="cpu", threads=2))
    assert set(reads.values()) == {1}
    assert len(reads) > 20


def test_a_plan_that_cannot_be_leaves_nothing(ckpt: Path, tmp_path: Path) -> None:
    methods = [make("arithmetic", {})]
    with pytest.raises(PlanError, match="--base"):
        sweep(opening.Inputs(str(ckpt)), methods, Request(), tmp_path / "many", merge.Settings(device="cpu"))
    assert not list((tmp_path / "many").iterdir())
