"""The script people write by hand: concatenate all weights with torch, then the formulas as they stand.

python benchmarks/plain_distance.py IN.safetensors
"""

import re
import sys

import torch
from safetensors.torch import load_file

tensors = load_file(sys.argv[1])
sides = {"v": [], "l": []}
for key in sorted(tensors):
    found = re.fullmatch(r"transformer\.blocks\.\d+\.(?:attn|mlp|norm1|norm2)\.(v|l)\..*", key)
    if found:
        sides[found[1]].append(tensors[key].flatten())
x, y = (torch.cat(parts) for parts in sides.values())
print("l2", (x - y).norm().item())
print("cosine", 1 - torch.nn.functional.cosine_similarity(x, y, dim=0).item())
print("ssd", 1 - ((x + y).abs() / (x.abs() + y.abs())).mean().item())
k = len(x) // 2
for side in (x, y):
    side[side.abs() <= side.abs().kthvalue(k).values] = 0
kept = (x != 0) | (y != 0)
print("tssd", 1 - ((x + y).abs()[kept] / (x.abs() + y.abs())[kept]).mean().item())
