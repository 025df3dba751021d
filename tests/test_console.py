from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.helpers import environment, run_python
from vlmerge_cli import console, devices, ranks
from vlmerge_cli.errors import UsageError
from vlmerge_cli.flags.common import parse_bytes


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (865_000_000, "865 MB"), (9.4e8, "940 MB"), (1.2e13, "12 TB")],
)
def test_size(number: float, text: str) -> None:
    assert console.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (999_999, "1.0M"), (216_100_000, "216.1M"), (8e9, "8.00B")],
)
def test_count(number: float, text: str) -> None:
    assert console.count(number) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("500MB", 5 * 10**8),
        ("2GiB", 2**31),
        ("1.5 kb", 1500),
        ("7", 7),
        (" 3B ", 3),
        ("1tib", 2**40),
    ],
)
def test_parse_bytes(text: str, size: int) -> None:
    assert parse_bytes(text, "--max-shard-size") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5XB", "nan", "infGB", "5 5GB", "0.1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--max-shard-size"):
        parse_bytes(text, "--max-shard-size")


def test_only_the_first_rank_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def everything() -> None:
        console.show("a")
        console.show_json({"é": 1})
        console.show_table("t", ("x", "n"), [("row", "1")])
        console.warn("b")

    everything()
    out, err = capsys.readouterr()
    assert "a\n" in out
    assert '"é": 1' in out
    assert "row" in out
    assert err == "warning: b\n"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "1")
    everything()
    assert capsys.readouterr() == ("", "")


def test_a_process_alone_needs_no_group() -> None:
    ranks.start()
    ranks.barrier()
    assert ranks.gather_objects({"a": 1}) == [{"a": 1}]
    ranks.stop()
    assert (ranks.rank(), ranks.local_rank(), ranks.world_size()) == (0, 0, 1)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("visible", [False, True])
def test_a_gpu_needs_a_pytorch_that_can_use_it(visible: bool, built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_gpu_visible", lambda: visible)
    monkeypatch.setattr(devices, "is_torch_built_for_gpus", lambda: built)
    assert devices.resolve("auto", prefer_gpu=True) == ("cuda" if visible and built else "cpu")
    if not (visible and built):
        lacks = "the installed PyTorch has no CUDA" if visible else "no CUDA device is visible"
        with pytest.raises(UsageError, match=lacks):
            devices.resolve("cuda:0", prefer_gpu=True)


@pytest.mark.parametrize(("device", "current"), [("cpu", None), ("cuda", 0), ("cuda:3", 3)])
def test_the_gpu_in_use(device: str, current: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    devices.use(device)
    assert chosen == ([] if current is None else [current])


def test_what_pytorch_was_built_for_is_told_without_importing_it() -> None:
    code = (
        "import sys; from vlmerge_cli import devices; print(devices.is_torch_built_for_gpus(), 'torch' in sys.modules)"
    )
    import torch

    assert run_python(code).stdout == f"{torch.backends.cuda.is_built()} False\n"


@pytest.mark.parametrize("there", [False, True])
def test_devices(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_gpu", lambda: there)
    assert devices.resolve("cpu", prefer_gpu=True) == "cpu"
    assert devices.resolve("auto", prefer_gpu=False) == "cpu"
    assert devices.resolve("auto", prefer_gpu=True) == ("cuda" if there else "cpu")
    for name in ("cuda", "cuda:1"):
        if there:
            assert devices.resolve(name, prefer_gpu=False) == name
        else:
            with pytest.raises(UsageError, match="no CUDA device is visible"):
                devices.resolve(name, prefer_gpu=False)
    for name in ("gpu", "cuda:", "cuda:x", "CPU", ""):
        with pytest.raises(UsageError, match="--device"):
            devices.resolve(name, prefer_gpu=True)


def test_numpy_is_loaded_without_threads_that_nobody_needs() -> None:
    code = """if True:
        import os
        from threadpoolctl import threadpool_info
        from vlmerge_cli import devices
        devices.load_numpy()
        print([library["num_threads"] for library in threadpool_info()], *os.environ)
    """
    found = run_python(code).stdout
    assert found.startswith("[1] "), "one BLAS, one thread"
    assert "OPENBLAS_NUM_THREADS" not in found, "what comes later is not told"


def test_a_bar_on_a_terminal_has_no_thread() -> None:
    script = """
import threading
from vlmerge_cli import console
with console.progress("merging", 2000) as progress:
    progress(500)
    progress.note("loss 3")
    progress(500)
    threads = threading.active_count()
print(threads)
"""
    terminal, end = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=end, env=environment(TERM="xterm"), text=True
    )
    os.close(end)
    drawn = b""
    with suppress(OSError):  # a terminal that nobody has open any more
        while part := os.read(terminal, 4096):
            drawn += part
    os.close(terminal)
    assert done.stdout == "1\n"
    assert b"merging" in drawn
    assert b"1.0/2.0 kB" in drawn, "the last state"
