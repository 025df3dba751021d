"""What something ran on, for the records of its costs."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from typing import Any

from vlmerge_cli import devices


def machine(device: str) -> dict[str, Any]:
    """Processor or GPU, memory, versions and the day; no torch is imported for a CPU."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts: dict[str, Any] = {
        "cpu": _processor(),
        "num_cpus": devices.num_cpus(),
        "memory_gb": round(memory / 1e9),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.startswith("cuda"):
        import torch

        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
