"""sd-mecha's average of two files, with the type of its output as the inputs'.

PEERS/bin/python benchmarks/mecha_average.py A.safetensors B.safetensors OUT.safetensors
"""

import sys

import sd_mecha
import torch

a, b, out = sys.argv[1:]
recipe = sd_mecha.weighted_sum(sd_mecha.model(a), sd_mecha.model(b), alpha=0.5)
sd_mecha.merge(recipe, output_dtype=torch.float32, output=out)
