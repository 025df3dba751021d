from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vlmerge_cli.checkpoint import legacy
from vlmerge_cli.checkpoint.legacy import convert, is_legacy, open_legacy
from vlmerge_cli.errors import CheckpointError, UsageError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.tensor([1.5, 2.5]).bfloat16(),
         "steps": torch.tensor(7), "index": torch.arange(4).view(2, 2)}  # fmt: skip


def saved(folder: Path, content: object, name: str = "model.pt", **options: object) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(
    ("content", "unwrapped", "left_out"),
    [
        (STATE, (), {}),
        (OrderedDict(STATE), (), {}),
        ({"model": STATE}, ("model",), {}),
        (
            {"state_dict": STATE, "epoch": 3, "optimizer_states": [{}], "version": "2.1"},
            ("state_dict",),
            {"epoch": "int", "optimizer_states": "list of 1", "version": "str"},
        ),
        (
            {"module": {f"module.{k}": v for k, v in STATE.items()}, "lr": 0.1},
            ("module", "module."),
            {"lr": "float"},
        ),
        (
            {"model": {"state_dict": {f"model.module.{k}": v for k, v in STATE.items()}, "tag": None}},
            ("model", "state_dict", "model."),
            {"model.tag": "NoneType"},
        ),
        ({"state_dict": STATE, "step": torch.tensor(3)}, ("state_dict",), {"step": "tensor ()"}),
        ({**STATE, "args": {"lr": 1}, "name": "x"}, (), {"args": "dict of 1", "name": "str"}),
    ],
)
def test_wrappers(tmp_path: Path, content: object, unwrapped: tuple[str, ...], left_out: dict[str, str]) -> None:
    found = open_legacy(saved(tmp_path, content))
    expected = {f"module.{k}": v for k, v in STATE.items()} if unwrapped[-1:] == ("model.",) else STATE
    same(found.tensors, expected)
    assert found.unwrapped == unwrapped
    assert dict(found.left_out) == left_out


def test_a_prefix_that_some_names_lack_stays(tmp_path: Path) -> None:
    state = {"model.a": torch.ones(1), "b": torch.ones(1)}
    assert set(open_legacy(saved(tmp_path, state)).tensors) == {"model.a", "b"}


def test_an_entry_called_model_without_tensors_is_no_wrapper(tmp_path: Path) -> None:
    found = open_legacy(saved(tmp_path, {**STATE, "model": {"depth": 3}}))
    same(found.tensors, STATE)
    assert dict(found.left_out) == {"model": "dict of 1"}


def test_files_from_before_the_zip_format(tmp_path: Path) -> None:
    same(open_legacy(saved(tmp_path, STATE, _use_new_zipfile_serialization=False)).tensors, STATE)


def test_tensors_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.zeros(1 << 20)})
    before = Path("/proc/self/statm").read_text().split()[1]
    tensors = open_legacy(path).tensors
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path.name)]
    assert mapped
    assert tensors["w"].shape == (1 << 20,)
    grown = (int(Path("/proc/self/statm").read_text().split()[1]) - int(before)) * 4096
    assert grown < 3 << 20


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_needs_code_is_refused_and_none_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: int
) -> None:
    path = saved(tmp_path, {"state_dict": STATE, "callback": Runs()}, "model.ckpt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match="the file needs code to load") as raised:
        open_legacy(path)
    assert protocol == 4 or "(print)" in str(raised.value)
    assert "model.ckpt" in str(raised.value)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Runs(), protocol=protocol))
    with pytest.raises(CheckpointError):
        open_legacy(plain)
    assert capsys.readouterr() == ("", "")


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="needs code to load") as raised:
        open_legacy(saved(tmp_path, torch.nn.Linear(2, 2)))
    assert "save its state_dict alone" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02.", b"PK\x03\x04 broken"])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        open_legacy(path)
    assert "model.bin" in str(raised.value)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.zeros(10_000)})
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(CheckpointError, match=r"cannot be read as a PyTorch checkpoint|not a PyTorch checkpoint"):
        open_legacy(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no named tensors; its entries: none"),
        ({"epoch": 3}, r"no named tensors; its entries: epoch \(int\)"),
        ([torch.ones(1)], "no named tensors, but list of 1"),
        (torch.ones(2), r"no named tensors, but tensor \(2,\)"),
    ],
)
def test_files_without_named_tensors(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_legacy(saved(tmp_path, content))


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    saved(tmp_path, STATE, "model.ckpt")
    with pytest.raises(CheckpointError) as raised:
        open_legacy(tmp_path / "modle.ckpt")
    assert "did you mean 'model.ckpt'?" in str(raised.value)


# --- shards ---------------------------------------------------------------------------------------------------


def sharded(folder: Path, weight_map: object = None) -> Path:
    keys = list(STATE)
    saved(folder, {key: STATE[key] for key in keys[:2]}, "one.bin")
    saved(folder, {key: STATE[key] for key in keys[2:]}, "two.bin")
    given = (
        dict.fromkeys(keys[:2], "one.bin") | dict.fromkeys(keys[2:], "two.bin") if weight_map is None else weight_map
    )
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": given}))
    return index


def test_shards(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    for path in (index, tmp_path):
        assert is_legacy(path)
        same(open_legacy(path).tensors, STATE)


@pytest.mark.parametrize("file", ["../one.bin", "/etc/one.bin", "a/../../one.bin", "..\\one.bin", ""])
def test_an_index_may_not_name_files_elsewhere(tmp_path: Path, file: str) -> None:
    index = sharded(tmp_path, {"a.weight": file})
    with pytest.raises(CheckpointError, match="the index names a file outside its folder"):
        open_legacy(index)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a.weight": "three.bin"}, "shard is missing: three.bin"),
        ({"a.weight": "two.bin"}, "no shard holds 'a.weight'"),
        ({"a.weight": 3}, "the index has no weight_map of file names"),
        ([], "the index has no weight_map of file names"),
    ],
)
def test_broken_indices(tmp_path: Path, weight_map: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_legacy(sharded(tmp_path, weight_map))


def test_what_an_index_does_not_name_is_listed(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a.weight": "one.bin"})
    found = open_legacy(index)
    assert set(found.tensors) == {"a.weight"}
    assert dict(found.left_out) == {"one.bin: b.bias": "tensor (2,)"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["pytorch_model.bin"], True), (["pytorch_model.bin", "model.safetensors"], False), (["other.txt"], False)],
)
def test_folders_in_pytorch_format(tmp_path: Path, names: list[str], expected: bool) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert is_legacy(tmp_path) is expected


# --- conversion -----------------------------------------------------------------------------------------------


def test_convert_keeps_every_tensor(tmp_path: Path) -> None:
    source = saved(tmp_path, {"state_dict": STATE, "epoch": 3}, "model.ckpt")
    target = tmp_path / "out.safetensors"
    summary = convert(source, target, sync=False)
    same(load_file(target), STATE)
    assert (summary.num_tensors, summary.num_bytes) == (4, 24 + 4 + 8 + 32)
    assert (summary.unwrapped, dict(summary.left_out), summary.tied) == (("state_dict",), {"epoch": "int"}, ())
    with safe_open(target, "pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["vlmerge"]) == {"converted_from": "model.ckpt", "unwrapped": ["state_dict"]}


def test_shared_and_odd_storages_are_written_out(tmp_path: Path) -> None:
    big = torch.arange(24.0).view(4, 6)
    state = {"tied.a": big, "tied.b": big, "view": big[1:3], "turned": big.t(), "each second": big[:, ::2],
             "wide": torch.ones(1).expand(5), "empty": torch.zeros(0, 3), "flag": torch.tensor([True, False]),
             "conjugate": torch.tensor([1 + 2j]).conj(),
             "small": torch.ones(3).to(torch.float8_e4m3fn)}  # fmt: skip
    summary = convert(saved(tmp_path, state), tmp_path / "out.safetensors", sync=False)
    found = load_file(tmp_path / "out.safetensors")
    assert found["small"].dtype == torch.float8_e4m3fn
    for key in state.keys() - {"small"}:
        assert torch.equal(found[key], state[key]), key
    assert summary.tied == (("tied.a", "tied.b", "view", "turned", "each second"),)


def test_published_grams_convert(tmp_path: Path, goldens: Path) -> None:
    grams = load_file(goldens / "merge" / "grams.safetensors")
    assert all(value.dtype == torch.float64 for value in grams.values())
    convert(saved(tmp_path, grams, "grams.pth"), tmp_path / "grams.safetensors", sync=False)
    same(load_file(tmp_path / "grams.safetensors"), grams)


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for number, state in enumerate((STATE, dict(reversed(STATE.items())))):
        (tmp_path / str(number)).mkdir()
        convert(saved(tmp_path / str(number), state), tmp_path / f"{number}.safetensors", sync=False)
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


def test_a_folder_takes_its_companions_along(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    sharded(source)
    (source / "config.json").write_text('{"a": 1}')
    (source / "vocab.txt").write_text("word")
    convert(source, tmp_path / "out", sync=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    same(load_file(tmp_path / "out" / "model.safetensors"), STATE)


def test_a_target_is_replaced_only_by_force(tmp_path: Path) -> None:
    source, target = saved(tmp_path, STATE), tmp_path / "out.safetensors"
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        convert(source, target, sync=False)
    assert target.read_text() == "mine"
    convert(source, target, force=True, sync=False)
    same(load_file(target), STATE)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.eye(3).to_sparse(), "'x' is sparse or quantised"),
        (torch.ones(1, dtype=torch.complex128), "'x' is of type complex128"),
    ],
)
def test_what_safetensors_cannot_hold(tmp_path: Path, tensor: torch.Tensor, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        convert(saved(tmp_path, {"x": tensor}), tmp_path / "out.safetensors", sync=False)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_types_are_those_of_the_writer() -> None:
    from vlmerge_cli.checkpoint.dtypes import DTYPES

    for dtype, name in legacy.DTYPES.items():
        assert DTYPES[name].bits == torch.empty(0, dtype=dtype).element_size() * 8
