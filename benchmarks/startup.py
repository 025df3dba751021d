"""How long a command takes that does next to nothing: ``vlmerge --help`` and ``vlmerge inspect``.

python -m benchmarks.startup
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness import VLMERGE, Command, compare, save

TINY = Path(__file__).parent.parent / "fixtures" / "tiny" / "specific.safetensors"

if __name__ == "__main__":
    commands = {
        "vlmerge --help": Command([*VLMERGE, "--help"]),
        "vlmerge inspect": Command([*VLMERGE, "inspect", str(TINY)], (TINY,)),
        "import typer, rich, numpy": Command([sys.executable, "-c", "import typer, rich.console, numpy"]),
        "python": Command([sys.executable, "-c", "pass"]),
    }
    save("startup", {name: row.values() for name, row in compare("start", commands, 11).items()})
