"""The Python interface gives what the command line gives, prints nothing, and costs nothing to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import vlmerge_cli as vlmerge
from tests.commands.test_grams import make_trained
from tests.helpers import load, ok, run_python, save, tiny, tiny_base, tiny_grams
from vlmerge_cli.checkpoint import reader
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions

METHODS: dict[str, dict[str, Any]] = {
    "interpolation": {"alpha": 0.75},
    "arithmetic": {"lam": 0.5},
    "regmean": {"gamma": 0.5},
}


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    tensors = tiny()
    save(tmp_path / "ckpt.grams.safetensors", tiny_grams(tensors))
    save(tmp_path / "base.safetensors", tiny_base(tensors))
    return save(tmp_path / "ckpt.safetensors", tensors)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(ShapesOptions(train=24, val=8, test=8), "coco", tmp_path_factory.mktemp("cache"))


def words_of(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name.replace('lam', 'lambda')}", str(value))]


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_gives_the_bytes_and_the_document_of_the_command(
    method: str, ckpt: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options, base = METHODS[method], {"base": tmp_path / "base.safetensors"} if method == "arithmetic" else {}
    seen: list[tuple[int, int]] = []
    found = vlmerge.merge(
        ckpt, method, output=tmp_path / "a.safetensors", progress=lambda *done: seen.append(done), **base, **options
    )
    assert capfd.readouterr() == ("", "")
    said = ok("merge", ckpt, "--method", method, "-o", tmp_path / "b.safetensors", "--json", *words_of(base | options))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    timed = {"seconds", "gigabytes_per_second", "output"}
    own, theirs = found.to_dict(), json.loads(said.out)
    assert own.keys() == theirs.keys()
    assert {k: v for k, v in own.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert found.method in found._repr_html_()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("method", METHODS)
def test_tensors_in_memory_merge_to_the_same_bytes(method: str, kind: str, ckpt: Path, tmp_path: Path) -> None:
    tensors, options = load(ckpt), METHODS[method]
    others: dict[str, Any] = {}
    if method == "arithmetic":
        others["base"] = load(tmp_path / "base.safetensors")
    if method == "regmean":
        others["grams"] = load(tmp_path / "ckpt.grams.safetensors")
    vlmerge.merge(
        ckpt,
        method,
        output=tmp_path / "a.safetensors",
        **{k: tmp_path / "base.safetensors" for k in others if k == "base"},
        **options,
    )
    right = load(tmp_path / "a.safetensors")
    before = {key: value.copy() for key, value in tensors.items()}
    if kind == "torch":
        given = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
        found = vlmerge.merge_tensors(given, method, **others_as_torch(others), **options)
        assert all(isinstance(value, torch.Tensor) for value in found.values())
        found = {key: value.numpy() for key, value in found.items()}
    else:
        found = vlmerge.merge_tensors(tensors, method, **others, **options)
    assert found.keys() == right.keys()
    for key, value in right.items():
        assert found[key].dtype == value.dtype
        assert found[key].tobytes() == value.tobytes(), key
    assert all((before[key] == tensors[key]).all() for key in tensors)


def others_as_torch(others: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: torch.from_numpy(value) for key, value in held.items()} for name, held in others.items()}


def test_bfloat16_in_memory_and_what_is_no_tensor() -> None:
    tensors = tiny(dtype=ml_dtypes.bfloat16)
    given = {
        key: torch.from_numpy(value.astype(np.float32)).bfloat16()
        for key, value in tensors.items()
        if value.dtype == ml_dtypes.bfloat16
    }
    given |= {key: torch.from_numpy(value) for key, value in tensors.items() if value.dtype != ml_dtypes.bfloat16}
    own = vlmerge.merge_tensors(given)
    theirs = vlmerge.merge_tensors(tensors)
    for key, value in own.items():
        assert value.dtype == torch.bfloat16 or value.dtype not in (torch.float32, torch.float64)
        assert (value.float().numpy() == theirs[key].astype(np.float32)).all(), key
    with pytest.raises(vlmerge.UsageError, match="numpy and torch mixed"):
        vlmerge.merge_tensors({**tensors, "other": torch.zeros(2)})
    with pytest.raises(vlmerge.UsageError, match="'other' is object"):
        vlmerge.merge_tensors({**tensors, "other": np.array([None])})
    with pytest.raises(vlmerge.UsageError, match="regmean needs Gram matrices"):
        vlmerge.merge_tensors(tensors, "regmean")


@pytest.mark.parametrize("by", ["layer", "module", "slot"])
def test_distances_are_those_of_the_command(by: str, ckpt: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = vlmerge.distance(ckpt, by=by, pairs=["all"])
    assert capfd.readouterr() == ("", "")
    assert found.to_dict() == json.loads(ok("distance", ckpt, "--by", by, "--pair", "all", "--json").out)
    records = found.to_records()
    assert len(records) == sum(1 + len(distances.rows) for distances in found.pairs)
    assert records[0].values["tssd"] == found.whole.tssd
    assert "TSSD" in found._repr_html_()


def test_distances_as_a_data_frame(ckpt: Path) -> None:
    pytest.importorskip("pandas")
    found = vlmerge.distance(ckpt)
    frame = found.to_pandas()
    assert list(frame["at"]) == ["all", *(row.at for row in found.rows)]
    assert frame["l2"][0] == found.whole.l2


def test_grams_are_those_of_the_command(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained = make_trained(tmp_path / "trained", {"data": [str(shapes)]})
    found = vlmerge.collect_grams(trained, output=tmp_path / "a.grams.safetensors", num_examples=12, batch_size=4)
    assert capfd.readouterr() == ("", "")
    words = ["--examples", "12", "--batch-size", "4", "-o", tmp_path / "b.grams.safetensors", "--json"]
    said = json.loads(ok("grams", trained, *words).out)
    assert (tmp_path / "a.grams.safetensors").read_bytes() == (tmp_path / "b.grams.safetensors").read_bytes()
    assert found.to_dict() | {"output": said["output"]} == said


def test_plan_and_inspect_are_those_of_the_commands(ckpt: Path) -> None:
    found = vlmerge.plan(ckpt, "regmean", gamma=0.5)
    assert found.to_dict() == json.loads(
        ok("merge", ckpt, "--method", "regmean", "--gamma", "0.5", "--dry-run", "--json").out
    )
    assert vlmerge.inspect(ckpt, keys=True).to_dict() == json.loads(ok("inspect", ckpt, "--keys", "--json").out)


def test_residuals_come_with_the_summary(ckpt: Path, tmp_path: Path) -> None:
    found = vlmerge.merge(ckpt, output=tmp_path / "a.safetensors", residuals=True)
    assert len(found.residuals) > 5
    document = ok("merge", ckpt, "-o", tmp_path / "b.safetensors", "--report", "-", "--json").out
    assert len(json.loads(document)["residuals"]) == len(found.residuals)  # one document, no table behind it


def test_convert(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.pt")
    found = vlmerge.convert(tmp_path / "old.pt", tmp_path / "new.safetensors")
    assert found.num_tensors == 1
    assert load(tmp_path / "new.safetensors")["a"].tolist() == [0, 1, 2]


def test_errors_are_the_exported_tree(ckpt: Path, tmp_path: Path) -> None:
    with pytest.raises(vlmerge.CheckpointError, match="no such checkpoint"):
        vlmerge.inspect(tmp_path / "none.safetensors")
    with pytest.raises(vlmerge.UsageError, match="did you mean 'regmean'"):
        vlmerge.merge(ckpt, "regmeen")
    with pytest.raises(vlmerge.PlanError, match="--base CKPT"):
        vlmerge.merge(ckpt, "arithmetic", output=tmp_path / "a.safetensors")
    assert issubclass(vlmerge.PlanError, vlmerge.VlmergeError)


def test_importing_it_loads_nothing_and_lists_everything() -> None:
    code = (
        "import sys, vlmerge_cli as v\n"
        "assert not {'torch', 'numpy', 'safetensors', 'rich', 'typer'} & set(sys.modules), sys.modules.keys()\n"
        "assert set(v.__all__) <= set(dir(v))\n"
        "assert all(getattr(v, name).__doc__ for name in v.__all__ if name.islower() and name != 'load')\n"
        "assert 'torch' not in sys.modules\n"
        "assert v.load.__doc__\n"  # it runs a model: the one name that brings PyTorch
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vlmerge.nothing  # noqa: B018


COMMANDS: dict[str, list[str]] = {
    "inspect": [],
    "distance": [],
    "merge": ["--method", "regmean", "-o", "out.safetensors"],
    "plan": ["--method", "regmean", "--dry-run"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_input_is_opened_once(command: str, ckpt: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    opened = counted(monkeypatch)
    ok("merge" if command == "plan" else command, ckpt, *COMMANDS[command])
    grams = {"ckpt.grams.safetensors": 1} if "regmean" in COMMANDS[command] else {}
    assert opened == {"ckpt.safetensors": 1, **grams}


@pytest.mark.parametrize("words", [["grams"], ["merge", "--method", "regmean", "--gamma", "0.5"]])
def test_collecting_grams_opens_a_checkpoint_once(
    words: list[str], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_trained(tmp_path / "trained", {"data": [str(shapes)]})
    opened = counted(monkeypatch)
    ok(words[0], trained, *words[1:])
    assert opened["model.safetensors"] == 1


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each file's header is read from now on."""
    found: dict[str, int] = {}
    inner = reader._open_shard

    def count(path: Path) -> Any:
        found[path.name] = found.get(path.name, 0) + 1
        return inner(path)

    monkeypatch.setattr(reader, "_open_shard", count)
    return found
