from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import expert_key, experts_of, load, merged_key, ok, slot_shapes, tiny, tiny_base
from vlmerge_cli.errors import UsageError
from vlmerge_cli.methods.arithmetic import Arithmetic


@pytest.mark.parametrize("lam", [0, 0.3, 0.5, 1, -0.7, 2])
@pytest.mark.parametrize("sequential", [False, True])
def test_the_formula(lam: float, sequential: bool, ckpt, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    flags = ["--sequential"] if sequential else []
    ok(
        "merge",
        ckpt,
        "-o",
        out,
        "-m",
        "arithmetic",
        "--base",
        tmp_path / "base.safetensors",
        "--lambda",
        lam,
        *flags,
    )
    merged, source = load(out), tiny()
    base = tiny_base(source)
    for layer in range(3):
        for name in slot_shapes(1, 1):
            w0 = base[merged_key(layer, name)].astype(np.float64)
            w = [source[expert_key(layer, name, e)].astype(np.float64) for e in experts_of(layer, 2)]
            if sequential:  # the closed form of what the published code does
                n = len(w)
                expected = (1 - lam) ** n * w0 + sum(lam * (1 - lam) ** (n - j) * w[j - 1] for j in range(1, n + 1))
            else:
                expected = w0 + lam * sum(one - w0 for one in w)
            np.testing.assert_allclose(merged[merged_key(layer, name)], expected, rtol=1e-6, atol=2e-6)


def test_what_is_not_merged_comes_from_the_checkpoint(ckpt, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    ok("merge", ckpt, "-o", out, "-m", "arithmetic", "--base", tmp_path / "base.safetensors", "--lambda", 0)
    merged, source = load(out), tiny()
    for key in ("logit_scale", "transformer.blocks.0.gamma_1", "text_embeddings.word_embeddings.weight"):
        assert merged[key].tobytes() == source[key].tobytes()


def test_the_base_may_have_another_float_type(ckpt, tmp_path) -> None:
    from tests.helpers import save

    base = {key: value.astype(np.float64) for key, value in tiny_base(tiny()).items()}
    wide = save(tmp_path / "wide.safetensors", base)
    for name, path in (("a", tmp_path / "base.safetensors"), ("b", wide)):
        ok("merge", ckpt, "-o", tmp_path / f"{name}.safetensors", "-m", "arithmetic", "--base", path)
    a, b = load(tmp_path / "a.safetensors"), load(tmp_path / "b.safetensors")
    assert all(a[key].tobytes() == b[key].tobytes() for key in a)


@pytest.mark.parametrize("lam", [float("nan"), float("inf"), float("-inf")])
def test_lambda_is_finite(lam: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        Arithmetic(lam=lam)
