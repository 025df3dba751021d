"""What something ran on, and what was run, for the records of its costs."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmerge_cli import devices


def machine(device: str) -> dict[str, Any]:
    """Processor or GPU, memory, versions, the command and the day; no torch is imported for a CPU."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts: dict[str, Any] = {
        "cpu": _processor(),
        "num_cpus": devices.num_cpus(),
        "memory_gb": round(memory / 1e9),
        "python": platform.python_version(),
        "torch": version("torch"),
        **_program(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.startswith("cuda"):
        import torch

        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _program() -> dict[str, str]:
    """The version, the commit where the program runs from its repository, and the command line where it is one."""
    facts = {"vlmerge": version("vlmerge")}
    if commit := _commit():
        facts["commit"] = commit
    if Path(sys.argv[0]).stem in ("vlmerge", "__main__"):
        facts["command"] = shlex.join(["vlmerge", *sys.argv[1:]])
    return facts


@cache
def _commit() -> str:
    """Of the repository that this file is in, ``-dirty`` where something was changed since; else nothing."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
