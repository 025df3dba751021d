"""How long a command takes that does next to nothing: ``vlmerge --help`` and ``vlmerge inspect``.

python -m benchmarks.startup
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness import VLMERGE, WORK, compare, save

TINY = Path(__file__).parent.parent / "fixtures" / "tiny" / "specific.safetensors"

if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    commands = {
        "vlmerge --help": [*VLMERGE, "--help"],
        "vlmerge inspect": [*VLMERGE, "inspect", str(TINY)],
        "import typer, rich, numpy": [sys.executable, "-c", "import typer, rich.console, numpy"],
        "python": [sys.executable, "-c", "pass"],
    }
    save("startup", compare("start", commands, [TINY], num_runs=11), {})
