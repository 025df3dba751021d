"""Which device to use, found without importing torch."""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from vlmerge_cli import ranks
from vlmerge_cli.errors import UsageError


def has_gpu() -> bool:
    """Whether an NVIDIA device is visible to this process, and the installed PyTorch can use it."""
    return is_gpu_visible() and is_torch_built_for_gpus()


def is_gpu_visible() -> bool:
    """Whether the machine has an NVIDIA GPU that the environment does not hide."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1") and Path("/dev/nvidiactl").exists()


def is_torch_built_for_gpus() -> bool:
    """As its files tell."""
    found = find_spec("torch")
    places = found.submodule_search_locations if found is not None else None
    return any(Path(place, "lib", "libtorch_cuda.so").exists() for place in places or ())


def resolve(device: str, prefer_gpu: bool) -> str:
    """``cpu``, ``cuda`` or ``cuda:n`` from what the user typed; ``auto`` takes a GPU only where it pays.

    Raises UsageError for another word, or for CUDA where there is none.
    """
    if device == "auto":
        device = "cuda" if prefer_gpu and has_gpu() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}", fix="choose auto, cpu, cuda or cuda:0")
    if device.startswith("cuda") and not has_gpu():
        lacks = "the installed PyTorch has no CUDA" if is_gpu_visible() else "no CUDA device is visible"
        raise UsageError(f"--device {device}: {lacks}", fix="use --device cpu")
    if device == "cuda" and ranks.world_size() > 1:
        return f"cuda:{ranks.local_rank()}"
    return device


def for_model(device: str) -> str:
    """``resolve`` for what runs a model: on a GPU if there is one, which then is the current one."""
    found = resolve(device, prefer_gpu=True)
    use(found)
    return found


def use(device: str) -> None:
    """Make a GPU the current one of this process: what asks for no other then runs there."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(torch.device(device).index or 0)


def each(device: str) -> list[str]:
    """The GPUs that a name stands for: ``cuda`` for all of them. Raises UsageError for one that torch does not see."""
    import torch

    there = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    chosen = [one for one in there if device in ("cuda", one)]
    if not chosen:
        raise UsageError(f"--device {device}: torch sees {', '.join(there) or 'no GPU'}", fix="use --device cpu")
    return chosen


def start_torch() -> None:
    """Import torch and wake the GPUs in a thread, as both take a second or more.

    Whoever imports torch meanwhile waits for it.
    """
    threading.Thread(target=_wake, daemon=True).start()


def _wake() -> None:
    with suppress(Exception):  # it will fail again where it is needed, and be told
        import torch

        torch.cuda.init()


def load_numpy() -> None:
    """Import numpy with one BLAS thread: slots go side by side, and further threads would spin for nothing at first.

    To be called before anything else imports it.
    """
    name = "OPENBLAS_NUM_THREADS"
    ours = name not in os.environ
    os.environ.setdefault(name, "1")
    import numpy  # noqa: F401

    if ours:
        del os.environ[name]


def num_cpus() -> int:
    """Processors this process may run on, shared with the other ranks on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size())
