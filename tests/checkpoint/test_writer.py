from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import encode, leftovers, load, read_raw
from vlmerge_cli.checkpoint import writer
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import create
from vlmerge_cli.errors import CheckpointError, UsageError
from vlmerge_cli.outputs import temporary

SPECS = {"a": Spec("F32", (4,)), "b": Spec("I64", (3,)), "empty": Spec("F32", (0,)), "c": Spec("U8", (5,))}
DATA = {
    "a": np.arange(4, dtype=np.float32),
    "b": np.arange(3),
    "empty": np.ones(0, np.float32),
    "c": np.arange(5, dtype=np.uint8),
}
KINDS = pytest.mark.parametrize("name", ["out.safetensors", "out"])


def fill(output: writer.Output) -> None:
    for key, value in DATA.items():
        output.write(key, 0, value)


def written(target: Target) -> Path:
    with create(target, SPECS, {"k": "v", "vlmerge": "{}"}) as output:
        fill(output)
    return target.path


@KINDS
def test_what_was_written_is_there(name: str, tmp_path: Path) -> None:
    found = load(written(Target(tmp_path / name)))
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in DATA.items()}
    assert leftovers(tmp_path) == []


def test_parts_in_any_order_from_several_threads(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    with create(Target(tmp_path / "a.safetensors"), {"x": Spec("U8", (100_000,))}, {}) as output:
        threads = [
            threading.Thread(
                target=lambda n=n: [
                    output.write("x", at, data[at : at + 1000]) for at in reversed(range(n * 1000, 100_000, 4000))
                ]
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read_raw(tmp_path / "a.safetensors")["x"].data == data


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: real(fd, bytes(view)[:3] if at > 300 else view, at))
    assert load(written(Target(tmp_path / "a.safetensors")))["b"].tolist() == [0, 1, 2]


@KINDS
@pytest.mark.parametrize("missing", ["a", "c"])
def test_a_tensor_that_was_not_written_is_a_bug_that_shows(name: str, missing: str, tmp_path: Path) -> None:
    def write_the_rest() -> None:
        with create(Target(tmp_path / name), SPECS, {}) as output:
            for key in set(SPECS) - {missing}:
                output.write(key, 0, DATA[key])

    with pytest.raises(AssertionError, match=missing):
        write_the_rest()
    assert list(tmp_path.iterdir()) == []


def test_bytes_past_a_tensor_are_a_bug_that_shows(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), create(Target(tmp_path / "a.safetensors"), SPECS, {}) as output:
        output.write("a", 8, DATA["a"])
    assert list(tmp_path.iterdir()) == []


@KINDS
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("old", [False, True])
def test_an_error_leaves_what_was_there(name: str, error: type[BaseException], old: bool, tmp_path: Path) -> None:
    target = Target(tmp_path / name, force=True)
    before = load(written(target)) if old else None

    def write_a_part() -> None:
        with create(target, SPECS, {}) as output:
            output.write("a", 0, DATA["a"] + 1)
            raise error

    with pytest.raises(error):
        write_a_part()
    assert leftovers(tmp_path) == []
    assert target.path.exists() == old
    if before is not None:
        assert load(target.path)["a"].tolist() == before["a"].tolist()


@KINDS
@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "free some space"), (errno.EIO, "cannot write"), (errno.EROFS, "-o/--output")],
)
def test_what_the_file_system_refuses(
    name: str, call: str, number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CheckpointError, match=words):
        written(Target(tmp_path / name, force=call == "replace"))  # without force nothing is replaced
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@KINDS
@pytest.mark.parametrize("has_renameat2", [True, False])
def test_what_got_the_name_meanwhile_stays(
    name: str, has_renameat2: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_renameat2:
        monkeypatch.setattr(temporary, "_renameat2", lambda *_: False)
    target = Target(tmp_path / name)
    with pytest.raises(UsageError, match="exists"), writer.create(target, {"a": Spec("U8", (1,))}, {}) as output:
        output.write("a", 0, b"x")
        written(Target(tmp_path / name))  # another process is faster
    assert load(target.path)["b"].tolist() == [0, 1, 2]
    assert leftovers(tmp_path) == []


def test_a_file_system_without_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert load(written(Target(tmp_path / "a.safetensors")))["b"].tolist() == [0, 1, 2]


def test_a_file_system_without_locks_or_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no")

    class Without:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(ctypes, "CDLL", Without)
    for _ in range(2):
        written(Target(tmp_path / "out", force=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@KINDS
def test_nothing_is_synced_when_asked_not_to(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    written(Target(tmp_path / name, sync=False))
    assert synced == []
    written(Target(tmp_path / name, force=True))
    assert len(synced) >= 2, "the file and its folder"


@KINDS
def test_leftovers_of_killed_runs_go_and_those_of_living_ones_stay(name: str, tmp_path: Path) -> None:
    dead, other = tmp_path / f".{name}.0123abcd.partial", tmp_path / ".other.safetensors.0123abcd.partial"
    (dead.mkdir if name == "out" else dead.touch)()
    other.touch()
    target = Target(tmp_path / name)
    with create(target, SPECS, {}) as output:
        assert not dead.exists()
        (living,) = (p for p in tmp_path.glob(".*.partial") if p != other)
        temporary.remove_leftovers(target.path)
        assert living.exists(), "it is locked"
        fill(output)
    assert leftovers(tmp_path) == [other.name]


def test_two_runs_to_one_target(tmp_path: Path) -> None:
    target = Target(tmp_path / "a.safetensors", force=True)
    with create(target, SPECS, {}) as one:
        with create(target, SPECS, {}) as two:
            fill(two)
        fill(one)
    assert load(target.path)["b"].tolist() == [0, 1, 2]
    assert leftovers(tmp_path) == []


def test_a_shard_holds_at_least_one_tensor(tmp_path: Path) -> None:
    written(Target(tmp_path / "out", max_shard_bytes=1))
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) >= 3


def test_files_are_closed(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    written(Target(tmp_path / "a.safetensors"))
    written(Target(tmp_path / "out"))
    with pytest.raises(UsageError):
        written(Target(tmp_path / "out"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_independent_writer_and_this_one_agree(tmp_path: Path) -> None:
    """On the bytes of a file whose tensors are already in this one's order."""
    path = written(Target(tmp_path / "a.safetensors"))
    order = sorted(SPECS, key=lambda key: (-DATA[key].itemsize, key))
    theirs = tmp_path / "theirs.safetensors"
    theirs.write_bytes(encode({key: DATA[key] for key in order}, {"k": "v"}))
    assert list(read_raw(path).items()) == list(read_raw(theirs).items())
