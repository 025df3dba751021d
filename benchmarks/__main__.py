"""``make bench``: every measurement, then the tables."""

import subprocess
import sys

for name in ("startup", "merge", "distance", "grams", "model", "pretrain", "data", "retrieval", "render"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
