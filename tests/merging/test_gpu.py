"""The path through a GPU gives what the CPU gives; all of it but CUDA itself runs here on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.helpers import NUMPY, Tensors, expert_key, fails, load, method_arguments, ok, read_raw, save_all, tiny
from vlmerge_cli import devices
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import Output, create
from vlmerge_cli.engine import torcharrays
from vlmerge_cli.engine.torcharrays import TorchArrays
from vlmerge_cli.errors import MergeError, UsageError
from vlmerge_cli.grams.sums import HostSums, TorchSums
from vlmerge_cli.layouts.survey import detect
from vlmerge_cli.merging import execute, gpu
from vlmerge_cli.merging.job import Job, Piece
from vlmerge_cli.merging.plan import Request, make_plan
from vlmerge_cli.merging.worker import Worker
from vlmerge_cli.methods import METHODS
from vlmerge_cli.methods.linalg import unpack
from vlmerge_cli.methods.method import make, method_class

NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = [["cpu"], ["cpu", "cpu"], pytest.param(["cuda:0"], marks=NEEDS_GPU)]
ON_DEVICES = pytest.mark.parametrize("names", DEVICES, ids="+".join)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchArrays, "chunk_elements", 7)
    monkeypatch.setattr(gpu, "BATCH_BYTES", 200)


def merged(folder: Path, names: list[str] | None, method: str = "interpolation", **options: object) -> Tensors:
    """``folder``/ckpt merged through these torch devices, or (None) as the command line does on a CPU."""
    out = folder / "out.safetensors"
    request = Request(dtype=options.pop("dtype", None))  # type: ignore[arg-type]
    with ExitStack() as stack:
        names_of_files = ("ckpt", "base", "ckpt.grams")
        opened, base, grams = (
            stack.enter_context(open_checkpoint(folder / f"{name}.safetensors")) for name in names_of_files
        )
        plan = make_plan(opened, detect(opened.tensors, "")[0], make(method, {}), request, base, grams)
        job = Job(plan, opened, base, grams, **options)  # type: ignore[arg-type]
        output = stack.enter_context(create(Target(out, force=True), plan.specs, {}))
        if names is None:
            execute.execute(job, output)
        else:
            gpu.execute(job, output, names, lambda _: None)
    return load(out)


@ON_DEVICES
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_gpu_equals_cpu(names: list[str], method: str, dtype: str, tmp_path: Path) -> None:
    tensors = {k: v.astype(NUMPY[dtype]) if v.dtype.kind == "f" else v for k, v in tiny(dtype=np.float64).items()}
    save_all(tmp_path, tensors)
    ours, theirs = merged(tmp_path, None, method), merged(tmp_path, names, method)
    assert set(ours) == set(theirs)
    step = {"F16": 2e-3, "BF16": 2e-2}.get(dtype, 0)  # a difference of 1e-7 may round to the neighbour
    for key, value in ours.items():
        assert theirs[key].dtype == value.dtype
        np.testing.assert_allclose(theirs[key].astype(float), value.astype(float), rtol=step, atol=1e-6, err_msg=key)
        if method == "interpolation":
            assert theirs[key].tobytes() == value.tobytes(), key


@ON_DEVICES
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_however_it_is_cut(names: list[str], method: str, threads: int, tmp_path: Path, small_batches: None) -> None:
    save_all(tmp_path, tiny())
    ours, theirs = merged(tmp_path, None, method), merged(tmp_path, names, method, threads=threads)
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-6, err_msg=key)


@ON_DEVICES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_another_type_of_output(names: list[str], dtype: str, tmp_path: Path, small_batches: None) -> None:
    save_all(tmp_path, tiny())
    ours, theirs = merged(tmp_path, None, dtype=dtype), merged(tmp_path, names, dtype=dtype)
    assert {key: value.tobytes() for key, value in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


@pytest.mark.parametrize(("method", "times"), [("interpolation", 0), ("regmean", 1)])
def test_solvers_are_loaded_before_threads_ask_for_them(
    method: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(gpu, "load_linalg", lambda device: seen.append((device, threading.active_count())))
    save_all(tmp_path, tiny())
    before = threading.active_count()
    merged(tmp_path, ["cpu"], method, threads=3)
    assert seen == [("cpu", before)] * times


@pytest.mark.parametrize("method", METHODS)
def test_methods_compute_in_the_stream_of_their_arrays(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []

    class Arrays(TorchArrays):
        @contextmanager
        def computing(self) -> Iterator[None]:
            inside.append(True)
            yield
            inside.pop()

        def store(self, array: torch.Tensor, dtype: str) -> np.ndarray:
            assert inside
            return super().store(array, dtype)

    kind = method_class(method)
    real, seen = kind.__call__, []
    monkeypatch.setattr(kind, "__call__", lambda self, group: (seen.append(bool(inside)), real(self, group))[1])
    monkeypatch.setattr(gpu, "execute", lambda job, output, *_: one_by_one(job, output))

    def one_by_one(job: Job, output: Output) -> None:
        do = Worker(job, output, Arrays("cpu")).do
        for piece in execute.pieces_of(job, 7):
            do(piece)

    save_all(tmp_path, tiny())
    theirs, ours = merged(tmp_path, ["cpu"], method), merged(tmp_path, None, method)
    assert seen[:1] == [True]
    assert inside == []
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-6, err_msg=key)


@ON_DEVICES
def test_solvers_load(names: list[str]) -> None:
    for name in names:
        torcharrays.load_linalg(name)


def test_batches_keep_the_order_and_have_about_the_same_bytes(tmp_path: Path, small_batches: None) -> None:
    save_all(tmp_path, tiny())
    with open_checkpoint(tmp_path / "ckpt.safetensors") as opened:
        job = Job(make_plan(opened, detect(opened.tensors, "")[0], make("interpolation", {})), opened)
        pieces = list(execute.pieces_of(job, 7))
        batches = list(gpu.batches_of(job, pieces))
        assert [piece for batch in batches for piece in batch] == pieces
        sizes = [[execute.input_bytes(job, piece) for piece in batch] for batch in batches]
        assert all(sum(own) <= 200 or len(own) == 1 for own in sizes)
        assert all(sum(one) + two[0] > 200 for one, two in pairwise(sizes)), "no batch too many"
        assert list(gpu.batches_of(job, [])) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@ON_DEVICES
def test_what_is_not_finite_is_said_as_on_the_cpu(names: list[str], bad: float, tmp_path: Path) -> None:
    tensors = tiny()
    key = expert_key(1, "mlp.fc1.weight", "l")
    tensors[key][3, 2] = bad
    save_all(tmp_path, tensors)
    with pytest.raises(MergeError, match=f"NaN or infinity in {key}") as theirs:
        merged(tmp_path, names)
    with pytest.raises(MergeError) as ours:
        merged(tmp_path, None)
    assert str(ours.value) == str(theirs.value)
    assert not (tmp_path / "out.safetensors").exists()
    assert not np.isfinite(merged(tmp_path, names, allow_non_finite=True)["transformer.blocks.1.mlp.fc1.weight"]).all()


@ON_DEVICES
def test_what_a_type_cannot_hold_and_what_is_only_copied(names: list[str], tmp_path: Path) -> None:
    tensors = tiny()
    tensors["transformer.norm.weight"][0] = np.nan
    save_all(tmp_path, tensors)
    assert np.isnan(merged(tmp_path, names, dtype="float16")["transformer.norm.weight"][0])
    tensors["transformer.norm.weight"][1] = 1e6
    save_all(tmp_path, tensors)
    with pytest.raises(MergeError, match="float16 cannot hold"):
        merged(tmp_path, names, dtype="float16")


def test_a_gpu_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    save_all(tmp_path, tiny())
    monkeypatch.setattr(TorchArrays, "send", full)
    with pytest.raises(MergeError, match="too little memory.*\n.*--device cpu"):
        merged(tmp_path, ["cpu"])


class Recorded(torcharrays.Stream):
    """A stream that notes what is asked of it, and how far it had to be waited for."""

    log: ClassVar[list[str]]
    names: ClassVar[Iterator[str]]

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.name = next(self.names)

    def after(self, other: torcharrays.Stream) -> None:
        assert isinstance(other, Recorded)
        self.log.append(f"{self.name} after {other.name}")

    def mark(self) -> Callable[[], None]:
        return lambda: self.log.append(f"waited for {self.name}")


def test_a_batch_is_on_its_way_while_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(Recorded, "log", log, raising=False)
    monkeypatch.setattr(Recorded, "names", iter(["there", "compute", "back"]), raising=False)
    monkeypatch.setattr(torcharrays, "Stream", Recorded)
    monkeypatch.setattr(gpu, "BATCH_BYTES", 0)  # a batch for each piece
    save_all(tmp_path, tiny())
    merge = gpu.BatchWorker._merge

    def noted(self: gpu.BatchWorker, step: object, piece: Piece) -> None:
        log.append("merged")
        merge(self, step, piece)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu.BatchWorker, "_merge", noted)
    merged(tmp_path, ["cpu"], threads=1)
    one = ["compute after there", "merged", "back after compute"]
    wait = "waited for back"
    own = [entry for entry in log if entry in (*one, wait)]
    at = own.index("merged") - 1
    assert own[at : at + 10] == [*one, *one, wait, *one], "the second is under way before the first is waited for"
    assert own[-1] == wait, "and the last is waited for too"
    assert own.count(wait) == own.count("back after compute") >= own.count("merged")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "arithmetic"])
def test_the_command_line_takes_this_path(method: str, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    inner = gpu.execute
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "each", lambda device: ["cpu"])
    monkeypatch.setattr(gpu, "execute", lambda *a: taken.append(a) or inner(*a))
    arguments = method_arguments(method, ckpt.parent)
    ok("merge", ckpt, *arguments, "--device", "cuda", "-o", ckpt.with_name("gpu.safetensors"))
    assert len(taken) == 1
    ok("merge", ckpt, *arguments, "--device", "cpu", "-o", ckpt.with_name("cpu.safetensors"))
    assert len(taken) == 1
    ours, theirs = load(ckpt.with_name("cpu.safetensors")), load(ckpt.with_name("gpu.safetensors"))
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-6, err_msg=key)


def test_which_gpus_a_name_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.each("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices.each("cuda:1") == ["cuda:1"]
    with pytest.raises(UsageError, match="cuda:3: torch sees cuda:0, cuda:1, cuda:2"):
        devices.each("cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="torch sees no GPU"):
        devices.each("cuda")


def test_a_gpu_that_torch_does_not_see(ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "torch sees no GPU" in fails(2, "merge", ckpt, "--device", "cuda")
    assert not ckpt.with_name("ckpt.merged.safetensors").exists()


# --- on a GPU itself ---


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Layers of BEiT-base width: slots of several batches beside some of a few kB."""
    return save_all(tmp_path, tiny(layers=3, top=2, width=768, hidden=3072))


def on_gpu(*marks: pytest.MarkDecorator) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def marked(test: Callable[..., None]) -> Callable[..., None]:
        for mark in (*NEEDS_GPU, *marks):
            test = mark(test)
        return test

    return marked


@on_gpu(pytest.mark.parametrize("method", METHODS))
def test_merges_on_a_gpu(method: str, wide: Path) -> None:
    for device in ("cpu", "cuda"):
        out = wide.with_name(f"{device}.safetensors")
        ok("merge", wide, *method_arguments(method, wide.parent), "--device", device, "-o", out)
    ours, theirs = load(wide.with_name("cpu.safetensors")), load(wide.with_name("cuda.safetensors"))
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-6, err_msg=key)
    if method == "interpolation":
        assert read_raw(wide.with_name("cpu.safetensors")) == read_raw(wide.with_name("cuda.safetensors"))


@on_gpu()
def test_alpha_auto_on_a_gpu(wide: Path) -> None:
    found = [ok("merge", wide, "--alpha", "auto", "--device", d, "--force", "--json").document for d in ("cpu", "cuda")]
    alphas = [document["learnt"]["alphas"] for document in found]
    assert alphas[0] == pytest.approx(alphas[1], abs=1e-6)


@on_gpu(pytest.mark.parametrize("width", [768, 3072]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_on_a_gpu_are_as_exact_as_they_say(dtype: torch.dtype, width: int) -> None:
    rows = torch.randn(6000, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    truth = (rows.double().T @ rows.double()).numpy()
    for precision, bound in (("float64", 1e-14), ("float32", 2e-7)):
        sums = TorchSums({"x": width}, torch.device("cuda"), precision)
        sums.add("x", rows.cuda())
        sums.flush()
        found = unpack(sums.triangle("x"))
        assert np.linalg.norm(found - truth) < bound * np.linalg.norm(truth)


@on_gpu(pytest.mark.parametrize("width", [768, 3072]))
def test_grams_on_a_gpu(width: int) -> None:
    rows = torch.randn(1500, width, generator=torch.Generator().manual_seed(0))
    cpu, cuda = HostSums({"x": width}, "float32", 1), TorchSums({"x": width}, torch.device("cuda"), "float32")
    for sums in (cpu, cuda):
        sums.add("x", rows)
        sums.flush()
    ours, theirs = cpu.triangle("x"), cuda.triangle("x")
    cpu.close()
    scale = np.abs(ours).max()
    np.testing.assert_allclose(theirs / scale, ours / scale, rtol=0, atol=1e-6)
