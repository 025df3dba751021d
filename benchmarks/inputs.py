"""The inputs of the benchmarks, made once in the work folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import WORK

BUILDER = Path(__file__).parent.parent / "fixtures" / "build.py"


def checkpoint(size: str, dtype: str = "F32") -> Path:
    """A modality-specific checkpoint: ``base`` is one file, ``4b`` a folder of four shards."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / (f"{size}-{dtype}.safetensors" if size == "base" else f"{size}-{dtype}")
    if not path.exists():
        subprocess.run([sys.executable, str(BUILDER), size, str(path), "--dtype", dtype], check=True)
    return path


def two_halves(source: Path, dtype: str) -> tuple[Path, Path]:
    """The same number of bytes as ``source`` in two agnostic checkpoints, for tools that merge whole files."""
    size = source.name.partition("-")[0]
    paths = []
    for seed in (1, 2):
        path = WORK / (f"{size}-{dtype}-half{seed}" + (".safetensors" if source.is_file() else ""))
        if not path.exists():
            command = [sys.executable, str(BUILDER), size, str(path), "--dtype", dtype]
            subprocess.run([*command, "--architecture", "agnostic", "--seed", str(seed)], check=True)
        paths.append(path)
    return paths[0], paths[1]
