from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import expert_key, experts_of, load, merged_key, ok, slot_shapes, tiny
from vlmerge_cli.errors import UsageError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods.interpolation import Interpolation
from vlmerge_cli.methods.method import Group

SLOT = Slot(0, "mlp.fc1.weight", "linear")


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("vl_ratio", [0, 1 / 3, 0.8, 1])
def test_the_formula(alpha: float, vl_ratio: float, ckpt, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    ok("merge", ckpt, "-o", out, "--alpha", alpha, "--vl-ratio", repr(vl_ratio))
    merged, source = load(out), tiny()
    for layer in range(3):
        for name in slot_shapes(1, 1):
            w = {e: source[expert_key(layer, name, e)].astype(np.float64) for e in experts_of(layer, 2)}
            expected = alpha * w["v"] + (1 - alpha) * w["l"]
            if "vl" in w:
                expected = (1 - vl_ratio) * expected + vl_ratio * w["vl"]
            np.testing.assert_allclose(merged[merged_key(layer, name)], expected, rtol=0, atol=1e-6)


def test_the_defaults_are_the_papers(ckpt, tmp_path) -> None:
    ok("merge", ckpt, "-o", tmp_path / "a.safetensors")
    ok(
        "merge",
        ckpt,
        "-o",
        tmp_path / "b.safetensors",
        "-m",
        "interpolation",
        "--alpha",
        "0.5",
        "--vl-ratio",
        1 / 3,
    )
    a, b = load(tmp_path / "a.safetensors"), load(tmp_path / "b.safetensors")
    assert all(a[key].tobytes() == b[key].tobytes() for key in b)


@pytest.mark.parametrize(("experts", "expected"), [({"v": 3.0, "vl": 9.0}, 5.0), ({"l": 6.0, "vl": 0.0}, 4.0)])
def test_one_of_two_lower_experts_has_the_whole_share(experts, expected) -> None:
    arrays = {name: np.array([value]) for name, value in experts.items()}
    np.testing.assert_allclose(Interpolation(alpha=0.9)(Group(SLOT, arrays, top=("vl",))), [expected])


@pytest.mark.parametrize("field", ["alpha", "vl_ratio"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_share_is_from_0_to_1(field: str, value: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        Interpolation(**{field: value})
