"""Distances of whole checkpoints against numpy on concatenated vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import NUMPY, Tensors, expert_key, experts_of, save, save_sharded, slot_shapes, tiny
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.distances import gate, measure, scan
from vlmerge_cli.engine.arrays import NumpyArrays
from vlmerge_cli.errors import MergeError, UsageError
from vlmerge_cli.layouts.survey import detect
from vlmerge_cli.metrics import threshold

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]
FOUR = ("l2", "cosine", "ssd", "tssd")


def plain(x: np.ndarray, y: np.ndarray, tx: float, ty: float) -> dict[str, float]:
    """The four distances of two vectors, as the paper writes them; thresholds are given."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    nx, ny = np.linalg.norm(x), np.linalg.norm(y)
    cosine = (0.0 if nx == ny else 1.0) if nx == 0 or ny == 0 else 1 - (x @ y) / (nx * ny)

    def ssd(a: np.ndarray, b: np.ndarray) -> float:
        below = np.abs(a) + np.abs(b)
        return float(np.mean(1 - np.divide(np.abs(a + b), below, out=np.ones_like(below), where=below > 0)))

    a, b = np.where(np.abs(x) <= tx, 0, x), np.where(np.abs(y) <= ty, 0, y)
    kept = (a != 0) | (b != 0)
    tssd = ssd(a[kept], b[kept]) if kept.any() else 0.0
    return {"l2": float(np.linalg.norm(x - y)), "cosine": cosine, "ssd": ssd(x, y), "tssd": tssd}


def kth_smallest(x: np.ndarray, truncate: float) -> float:
    k = int(truncate * len(x))
    return float(np.partition(np.abs(x.astype(np.float64)), k - 1)[k - 1]) if k else -1.0


def concatenated(tensors: Tensors, pair: tuple[str, str], names: Any = None, layers: Any = None) -> list[np.ndarray]:
    sides = []
    for expert in pair:
        parts = [
            tensors[expert_key(layer, name, expert)].astype(np.float64).reshape(-1)
            for layer in range(3)
            for name in slot_shapes(1, 1)
            if set(pair) <= set(experts_of(layer, 2))
            and (names is None or name in names)
            and (layers is None or layer in layers)
        ]
        sides.append(np.concatenate(parts))
    return sides


def expected(
    tensors: Tensors,
    pair: tuple[str, str] = ("v", "l"),
    truncate: float = 0.5,
    weights_only: bool = False,
    **part: Any,
) -> dict[str, float]:
    linear = [name for name, shape in slot_shapes(1, 1).items() if len(shape) == 2] if weights_only else None
    limits = [kth_smallest(x, truncate) for x in concatenated(tensors, pair, linear)]
    return plain(*concatenated(tensors, pair, part.get("names", linear), part.get("layers")), *limits)


def measured(path: Path, pair: tuple[str, str] = ("v", "l"), **settings: Any) -> measure.Distances:
    with open_checkpoint(path) as opened:
        return measure.measure(opened, detect(opened.tensors, "")[0], pair, **settings)


def close(found: measure.Distance, wanted: dict[str, float]) -> None:
    for name in FOUR:
        assert getattr(found, name) == pytest.approx(wanted[name], rel=1e-9, abs=1e-15), name


def experts_only(make: Any) -> Tensors:
    """The tiny checkpoint with every expert's tensor made anew."""
    rng = np.random.default_rng(5)
    return {
        key: make(rng, value.shape, key).astype(value.dtype)
        if len(key.split(".")) >= 6 and key.split(".")[4] in ("v", "l", "vl")
        else value
        for key, value in tiny().items()
    }


CONTENTS = {
    "random": tiny(),
    "near": experts_only(lambda rng, shape, key: np.full(shape, 0.3) + 1e-3 * rng.standard_normal(shape)),
    "tied": experts_only(lambda rng, shape, key: rng.integers(-2, 3, shape)),
    "all zero": experts_only(lambda rng, shape, key: np.zeros(shape)),
    "negative zeros": experts_only(lambda rng, shape, key: np.where(rng.random(shape) < 0.5, 0.0, -0.0)),
    "one zero": experts_only(lambda rng, shape, key: rng.standard_normal(shape) * (".l." in key)),
    "opposite": experts_only(lambda rng, shape, key: np.ones(shape) * (-1 if ".l." in key else 1)),
    "tiny": experts_only(lambda rng, shape, key: 1e-39 * rng.standard_normal(shape)),
    "huge": experts_only(lambda rng, shape, key: 1e37 * rng.standard_normal(shape)),
}


@pytest.mark.parametrize("bits", [1, 4, 18])
@pytest.mark.parametrize("content", CONTENTS)
def test_the_whole_equals_numpy(content: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "PART_BITS", bits)
    path = save(tmp_path / "c.safetensors", CONTENTS[content])
    close(measured(path).whole, expected(CONTENTS[content]))


@pytest.mark.parametrize("bits", [2, 18])
@pytest.mark.parametrize("content", [*CONTENTS, "one tensor"])
def test_a_sample_does_not_change_the_result(
    content: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good one or not: values concentrated in one tensor are hard to see in a sample."""
    lump = experts_only(lambda rng, shape, key: rng.standard_normal(shape) * (".1.mlp.v.fc1.b" in key or 1e-9))
    tensors = CONTENTS.get(content, lump)
    monkeypatch.setattr(scan, "CHUNK", 50)
    monkeypatch.setattr(threshold, "PART_BITS", bits)
    monkeypatch.setattr(threshold, "SAMPLE", 300)
    path = save(tmp_path / "c.safetensors", tensors)
    for truncate in (0.01, 0.5, 0.97):
        close(measured(path, truncate=truncate).whole, expected(tensors, truncate=truncate))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_passes(dtype: str, sampled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two over the bytes, beside what the sample reads; one more for 32 bits without a sample."""
    monkeypatch.setattr(scan, "CHUNK", 1 << 12)
    monkeypatch.setattr(threshold, "SAMPLE", 10_000 if sampled else 1 << 20)
    tensors = {
        key: value.astype(NUMPY[dtype]) for key, value in tiny(width=100, hidden=200).items() if value.dtype.kind == "f"
    }
    path = save(tmp_path / "c.safetensors", tensors)
    done: list[int] = []
    with open_checkpoint(path) as opened:
        survey, _ = detect(opened.tensors, "")
        whole = measure.measure(opened, survey, ("v", "l"), advance=done.append).whole
        if sampled and dtype != "F32":
            assert sum(done) == pytest.approx(measure.num_bytes_read(opened, survey, ("v", "l")), rel=0.01)
    bytes_of_pass = 2 * whole.num_weights * NUMPY[dtype].itemsize
    sample = min(10_000 * scan.STRIDE / whole.num_weights, scan.MOST_READ) if sampled else 0
    passes = sum(done) / bytes_of_pass - sample
    assert passes == pytest.approx(round(passes), abs=0.02)
    most = 3 if dtype == "F32" else 2
    assert 2 <= round(passes) <= most


def test_float64_weights_of_any_size(tmp_path: Path) -> None:
    """Squares and sums may leave float64's range; the distances do not."""
    for scale in (2.0**-600, 2.0**1000):
        tensors = {key: (value * 2.0**-8).astype(np.float64) * scale for key, value in tiny().items()}
        plain_size = {key: value.astype(np.float64) * 2.0**-8 for key, value in tiny().items()}
        found, wanted = measured(save(tmp_path / "c.safetensors", tensors)).whole, expected(plain_size)
        close(found, wanted | {"l2": wanted["l2"] * scale})


@pytest.mark.parametrize(
    "dtypes", [("F64",), ("F32",), ("F16",), ("BF16",), ("F16", "BF16"), ("BF16", "F32"), ("F16", "F64")], ids=str
)
@pytest.mark.parametrize("bits", [3, 18])
def test_float_types_and_mixtures(
    dtypes: tuple[str, ...], bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold, "PART_BITS", bits)
    tensors = {
        key: value.astype(NUMPY[dtypes[place % len(dtypes)]]) if value.dtype.kind == "f" else value
        for place, (key, value) in enumerate(tiny(dtype=np.float64).items())
    }
    close(measured(save(tmp_path / "c.safetensors", tensors)).whole, expected(tensors))


@pytest.mark.parametrize("truncate", [0, 0.1, 0.5, 0.999, 1])
@pytest.mark.parametrize("weights_only", [False, True])
def test_truncation(truncate: float, weights_only: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "c.safetensors", tiny())
    found = measured(path, truncate=truncate, weights_only=weights_only).whole
    close(found, expected(tiny(), truncate=truncate, weights_only=weights_only))
    if truncate == 1:
        assert found.tssd == 0


def test_k_0_zeroes_nothing(tmp_path: Path) -> None:
    tensors = {
        f"transformer.blocks.0.norm1.{expert}.weight": np.array([value], np.float32)
        for expert, value in (("v", 2.0), ("l", -6.0))
    }
    found = measured(save(tmp_path / "c.safetensors", tensors)).whole  # one entry: k = floor(1/2) = 0
    assert (found.l2, found.cosine, found.ssd, found.tssd) == (8, 2, 0.5, 0.5)


@pytest.mark.parametrize("pair", [("v", "l"), ("v", "vl"), ("l", "vl")], ids=str)
@pytest.mark.parametrize("by", ["layer", "module", "slot"])
def test_rows(pair: tuple[str, str], by: str, tmp_path: Path) -> None:
    """Each row equals numpy on its own entries, with the whole vector's thresholds; rows recombine."""
    tensors = tiny()
    found = measured(save(tmp_path / "c.safetensors", tensors), pair, by=by)
    layers = [layer for layer in range(3) if set(pair) <= set(experts_of(layer, 2))]
    parts: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for name in slot_shapes(1, 1):
            module = name.partition(".")[0]
            label = {"layer": f"layer {layer}", "module": module, "slot": f"layers.{layer}.{name}"}[by]
            part = parts.setdefault(label, {"names": [], "layers": []})
            part["names"].append(name)
            part["layers"].append(layer)
    assert {row.at for row in found.rows} == set(parts)
    for row in found.rows:
        close(row, expected(tensors, pair, **parts[row.at]))
    assert list(found.rows) == sorted(found.rows, key=lambda row: (-row.tssd, -row.ssd))
    assert sum(row.num_weights for row in found.rows) == found.whole.num_weights
    assert sum(row.l2**2 for row in found.rows) == pytest.approx(found.whole.l2**2, rel=1e-12)
    total = sum(row.ssd * row.num_weights for row in found.rows)
    assert total / found.whole.num_weights == pytest.approx(found.whole.ssd, rel=1e-12)


@pytest.mark.parametrize("sample", [300, 1 << 20])
def test_threads_chunks_and_shards_do_not_matter(sample: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "SAMPLE", sample)
    path = save(tmp_path / "c.safetensors", tiny())
    for chunk in (scan.CHUNK, 7):
        monkeypatch.setattr(scan, "CHUNK", chunk)
        found = {measured(path, threads=threads) for threads in (1, 2, 4)}
        assert len(found) == 1, "the same numbers to the last bit"
        for one in (*found, measured(save_sharded(tmp_path / "c", tiny(), 3))):
            close(one.whole, expected(tiny()))


def test_integers_are_left_out(tmp_path: Path) -> None:
    tensors = tiny()
    for expert in ("v", "l"):
        tensors[expert_key(0, "norm1.bias", expert)] = np.arange(6)
    found = measured(save(tmp_path / "c.safetensors", tensors), by="slot")
    assert "layers.0.norm1.bias" not in {row.at for row in found.rows}


@pytest.mark.parametrize("sample", [300, 1 << 20])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error(
    value: float, sample: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold, "SAMPLE", sample)
    tensors = tiny()
    tensors[expert_key(2, "norm1.bias", "v")][1] = value
    with pytest.raises(MergeError, match=r"blocks\.2\.norm1\.v\.bias"):
        measured(save(tmp_path / "c.safetensors", tensors))


def test_pairs(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path / "c.safetensors", tiny())) as opened:
        survey, _ = detect(opened.tensors, "")
    assert measure.pairs(survey) == [("v", "l"), ("v", "vl"), ("l", "vl")]
    assert measure.parse_pair("v,l", survey) == measure.parse_pair("l, v", survey) == ("v", "l")
    for text in ("v", "v,v", "v,x", "vision,language"):
        with pytest.raises(UsageError, match="--pair"):
            measure.parse_pair(text, survey)


def test_limits() -> None:
    assert gate.parse_limits(["tssd=0.02", "l2=3"]) == {"tssd": 0.02, "l2": 3}
    for text in ("tsd=1", "tssd", "tssd=", "tssd=x", "tssd=nan", "=1"):
        with pytest.raises(UsageError, match="--fail-above"):
            gate.parse_limits([text])


def test_equal_experts_are_at_no_distance(tmp_path: Path) -> None:
    tensors = tiny()
    for layer in range(3):
        for name in slot_shapes(1, 1):
            tensors[expert_key(layer, name, "l")] = tensors[expert_key(layer, name, "v")]
    whole = measured(save(tmp_path / "c.safetensors", tensors)).whole
    assert (whole.l2, whole.ssd, whole.tssd) == (0, 0, 0)
    assert 0 <= whole.cosine < 1e-15
    assert whole.num_weights == sum(int(np.prod(shape)) for shape in slot_shapes(6, 10).values()) * 3


def on_torch(device: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> measure.Distances:
    """With the arithmetic of a GPU, wherever."""
    if device == "cuda":
        return measured(path, device=device)

    class Arrays(NumpyArrays):
        def load(self, *arguments: Any) -> Any:
            return torch.tensor(super().load(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(scan, "make_arrays", lambda device: NumpyArrays() if device == "cpu" else Arrays())
        return measured(path, device="torch")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_torch_equals_numpy(device: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {k: v.astype(NUMPY[dtype]) if v.dtype.kind == "f" else v for k, v in tiny(dtype=np.float64).items()}
    path = save(tmp_path / "c.safetensors", tensors)
    wanted = measured(path)
    for bits, sample, chunk in ((18, 1, 50), (4, 300, 50), (18, 300, 1 << 20)):
        monkeypatch.setattr(scan, "GPU_CHUNK", chunk)
        monkeypatch.setattr(threshold, "PART_BITS", bits)
        monkeypatch.setattr(threshold, "SAMPLE", sample)
        found = on_torch(device, path, monkeypatch)
        assert [row.at for row in found.rows] == [row.at for row in wanted.rows]
        for one, two in zip((found.whole, *found.rows), (wanted.whole, *wanted.rows), strict=True):
            assert one.num_weights == two.num_weights
            close(one, {name: getattr(two, name) for name in FOUR})
