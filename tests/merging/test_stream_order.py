"""The order of copies and computations on a GPU, held without one: nothing is used before it is known to be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.asynchronous import RaceError, watched
from tests.helpers import save_all, tiny
from tests.merging.test_gpu import merged
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.distances import scan
from vlmerge_cli.distances.measure import Distances, measure
from vlmerge_cli.engine import torcharrays
from vlmerge_cli.engine.torcharrays import TorchArrays
from vlmerge_cli.layouts.survey import detect
from vlmerge_cli.merging import gpu
from vlmerge_cli.methods import METHODS

SMALL_BYTES = 2000  # of a batch: some hold several tensors, and there are many


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_bytes", [0, SMALL_BYTES])
def test_merges_use_nothing_too_early(
    method: str, batch_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(tmp_path, tiny())
    wanted = load_of(tmp_path, method, None)
    monkeypatch.setattr(gpu, "BATCH_BYTES", batch_bytes)
    with watched(monkeypatch) as watch:
        found = load_of(tmp_path, method, ["cpu"])
    assert watch.num_uses > 500
    assert len(watch.clocks) == 4, "the host and three streams"
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-6, err_msg=key)


def load_of(folder: Path, method: str, devices: list[str] | None) -> dict[str, np.ndarray]:
    return {key: value.copy() for key, value in merged(folder, devices, method, threads=1).items()}


def test_distances_use_nothing_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_all(tmp_path, tiny())
    wanted = distances(path)
    monkeypatch.setattr(scan, "make_arrays", lambda device: TorchArrays("cpu"))
    with watched(monkeypatch) as watch:
        found = distances(path, "cuda")
    assert watch.num_uses > 500
    assert found.whole.tssd == pytest.approx(wanted.whole.tssd, rel=1e-9)


def distances(path: Path, device: str = "cpu") -> Distances:
    with open_checkpoint(path) as opened:
        return measure(opened, detect(opened.tensors, "")[0], ("v", "l"), threads=1, device=device)


def never_waits(original: Callable[..., object]) -> Callable[..., object]:
    return lambda *_: None


def waits_for_nothing(original: Callable[..., object]) -> Callable[..., object]:
    return lambda *_: lambda: None


def forgets(original: Callable[..., object]) -> Callable[..., object]:
    def fetch(self: TorchArrays, results: object) -> object:
        arrived = original(self, results)
        self._leaving = None
        return arrived

    return fetch


def sends_at_once(original: Callable[..., object]) -> Callable[..., object]:
    """Both lanes are one: the next batch is read into what is still being copied."""

    def call(self: gpu.BatchWorker, batch: object) -> None:
        self._lanes[0] = self._lanes[1]
        original(self, batch)

    return call


FAULTS = {
    "a computation does not wait for its copy": (None, "after", never_waits, "uses what .* not written"),
    "the host does not wait": (None, "mark", waits_for_nothing, "host uses what .* not written"),
    "results are freed while they are copied": (TorchArrays, "fetch", forgets, "freed while"),
    "a buffer is filled while it is copied": (gpu.BatchWorker, "__call__", sends_at_once, "host overwrites"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken, said = FAULTS[fault]
    save_all(tmp_path, tiny())
    monkeypatch.setattr(gpu, "BATCH_BYTES", SMALL_BYTES)
    with watched(monkeypatch):
        owner = owner or torcharrays.Stream  # the one that is watched
        monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
        with pytest.raises(RaceError, match=said):
            merged(tmp_path, ["cpu"], "interpolation", threads=1)


def test_the_watch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams: a copy in one, a use in the other, with and without a wait between them."""
    with watched(monkeypatch):
        one, two = (torcharrays.Stream(torch.device("cpu")) for _ in range(2))
        source, target = torch.ones(3), torch.zeros(3)
        with one:
            target.copy_(source)
        two.after(one)
        with two:
            doubled = target * 2
        with one, pytest.raises(RaceError, match="overwrites what stream 2 may still be using"):
            target.copy_(source)
        with pytest.raises(RaceError, match="host uses what stream 2 has not written"):
            doubled.sum().item()
        two.mark()()
        assert doubled.sum().item() == 6
        one.after(two)
        with one:
            target.copy_(source)
        with two, pytest.raises(RaceError, match="stream 2 uses what stream 1 has not written"):
            target.sum()
