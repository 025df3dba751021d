"""What ``make demo`` runs, on the bundled checkpoint."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, environment, load

SCRIPT = '#!/bin/sh\nexec {python} -m vlmerge_cli "$@"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the bundled checkpoint, and a ``vlmerge`` to run."""
    shutil.copytree(ROOT / "fixtures" / "tiny", tmp_path / "fixtures" / "tiny")
    program = tmp_path / "vlmerge"
    program.write_text(SCRIPT.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path


@pytest.mark.slow
def test_demo(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "fixtures" / "demo.py"), "./vlmerge"],
        cwd=folder,
        env=environment(VLMERGE_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before = load(folder / "fixtures" / "tiny" / "specific.safetensors")
    for method in ("interpolation", "arithmetic", "regmean"):
        assert len(load(folder / "demo" / f"{method}.safetensors")) < len(before)
    scores = {
        name: [float(number) for number in numbers]
        for name, *numbers in re.findall(r"^ (as it is|\w+) +(\d+\.\d) +(\d+\.\d) *$", done.stdout, re.MULTILINE)
    }
    assert list(scores) == ["as it is", "interpolation", "arithmetic", "regmean"]
    recall, accuracy = zip(*scores.values(), strict=True)
    assert max(recall) == recall[0] > 20, "chance recalls 0.6 %"
    assert min(recall) > 10
    assert max(accuracy) == accuracy[0] > 70, "chance is 50 %"
    assert "</svg>" in (folder / "demo" / "scores.svg").read_text()
