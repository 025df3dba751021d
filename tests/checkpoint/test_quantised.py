"""Weights that a quantiser has packed are refused in one line that says by what and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import Raw, fails, save, tiny, vlmerge

#: What stands in a file beside, or in place of, each linear weight: ending -> dtype of the weight itself.
KINDS = {
    "fp8": ("F8_E4M3", ("weight_scale",), "weights with scales"),
    "fp8 of DeepSeek": ("F8_E4M3", ("weight_scale_inv",), "weights with scales"),
    "int8": ("I8", ("SCB", "weight_format"), "int8 weights of bitsandbytes"),
    "nf4": ("U8", ("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"), "4-bit weights"),
    "nf4 alone": ("U8", ("weight.quant_state.bitsandbytes__nf4",), "4-bit weights"),
    "GPTQ": ("", ("qweight", "qzeros", "scales", "g_idx"), "GPTQ or AWQ"),
    "compressed-tensors": ("", ("weight_packed", "weight_scale", "weight_shape"), "compressed-tensors"),
}


def packed(kind: str) -> dict[str, object]:
    dtype, endings, _ = KINDS[kind]
    found: dict[str, object] = {}
    for key, value in tiny().items():
        if not (key.endswith(".weight") and value.ndim == 2 and ".blocks." in key):
            found[key] = value
            continue
        if dtype:
            found[key] = Raw(dtype, value.shape, bytes(value.size))
        found |= {f"{key.removesuffix('weight')}{ending}": np.ones(1, np.float32) for ending in endings}
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["merge", "distance"])
def test_quantised_weights_are_refused_with_a_remedy(kind: str, command: str, tmp_path: Path) -> None:
    path = save(tmp_path / "q.safetensors", packed(kind))
    message = fails(1, command, path)
    assert KINDS[kind][2] in message
    assert "dequantise" in message
    assert len(message.strip().splitlines()) <= 2
    assert [one.name for one in tmp_path.iterdir()] == ["q.safetensors"]
    first = vlmerge("doctor", path).out.splitlines()[0]
    assert KINDS[kind][2] in first
