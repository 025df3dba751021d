"""All four distances between v and l, beside a plain torch script.

    python -m benchmarks.distance

W3: the 85 million pairs of a BEiT-base-size checkpoint in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness import VLMERGE, compare, save
from benchmarks.inputs import checkpoint

PLAIN = Path(__file__).with_name("plain_distance.py")

if __name__ == "__main__":
    source = checkpoint("base")
    commands = {
        "vlmerge distance": [*VLMERGE, "distance", str(source), "--json"],
        "plain script": [sys.executable, str(PLAIN), str(source)],
    }
    save("distance", compare("W3", commands, [source]), {"work": "W3", "bytes_in": source.stat().st_size})
