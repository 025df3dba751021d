"""Weights that a quantiser has packed, which nothing can average: recognised by the names it leaves beside them."""

from __future__ import annotations

from collections.abc import Iterable

#: How keys end -> what has made them.
SIGNS = (
    ((".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"), "4-bit weights of bitsandbytes"),
    ((".SCB", ".weight_format"), "int8 weights of bitsandbytes (with SCB)"),
    ((".qweight", ".qzeros", ".g_idx"), "weights packed by GPTQ or AWQ"),
    ((".weight_packed", ".weight_shape"), "weights packed by compressed-tensors"),
    ((".weight._data", ".weight._scale", ".W_q"), "weights packed by quanto or HQQ"),
    ((".weight_scale", ".weight_scale_inv", ".scale_weight", ".input_scale"), "weights with scales (fp8 or int8)"),
)
IN_A_NAME = (".quant_state.bitsandbytes__", "4-bit weights of bitsandbytes")
FIX = "merge the unquantised weights (or dequantise these to bfloat16), and quantise what comes out"


def quantised(keys: Iterable[str]) -> str:
    """What quantised the weights, with an example; empty for ordinary ones."""
    keys = list(keys)
    for endings, what in SIGNS:
        if found := next((key for key in keys if key.endswith(endings)), ""):
            return f"{what}, such as {found}"
    found = next((key for key in keys if IN_A_NAME[0] in key), "")
    return f"{IN_A_NAME[1]}, such as {found}" if found else ""
