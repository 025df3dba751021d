"""The script people write by hand: load everything with torch, average v and l (and vl), save.

python benchmarks/plain_average.py IN.safetensors OUT.safetensors
"""

import re
import sys

from safetensors.torch import load_file, save_file

tensors = load_file(sys.argv[1])
groups: dict[str, dict[str, str]] = {}
merged = {}
for key in tensors:
    found = re.fullmatch(r"(transformer\.blocks\.\d+\.(?:attn|mlp|norm1|norm2))\.(v|l|vl)\.(.*)", key)
    if found:
        groups.setdefault(f"{found[1]}.{found[3]}", {})[found[2]] = key
    else:
        merged[key] = tensors[key]
for target, keys in groups.items():
    value = 0.5 * tensors[keys["v"]] + 0.5 * tensors[keys["l"]]
    if "vl" in keys:
        value = 2 / 3 * value + 1 / 3 * tensors[keys["vl"]]
    merged[target] = value
save_file(merged, sys.argv[2])
