"""What vlmerge is held against does the same work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import distance, inputs, limit
from fixtures.build import SIZES, build, expert_specs
from vlmerge_cli.checkpoint.header import Spec

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402


def vlmerge(*arguments: object) -> str:
    command = [sys.executable, "-m", "vlmerge_cli", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.parametrize(("dtype", "shard_bytes"), [("F32", 10**9), ("BF16", 200_000)])
def test_the_limit_program_writes_the_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, shard_bytes: int
) -> None:
    monkeypatch.setattr(limit, "WORK", tmp_path)
    source, theirs, ours = tmp_path / "in", tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    build(source, SIZES["tiny"], dtype, "specific", 0, shard_bytes)
    assert (len(list(source.glob("*.safetensors"))) > 1) == (dtype == "BF16")
    limit.write_plan(source, theirs, tmp_path / "plan")
    subprocess.run([limit.program(), tmp_path / "plan", "2"], check=True)
    vlmerge("merge", source, "-o", ours, "--no-sync")
    want, found = load_file(ours), load_file(theirs)
    assert found.keys() == want.keys()
    for key in want:
        assert found[key].dtype == want[key].dtype
        assert torch.allclose(found[key].float(), want[key].float(), rtol=2**-7 if dtype == "BF16" else 1e-6, atol=1e-8)


def test_the_float64_distances_are_those_of_the_command(tmp_path: Path) -> None:
    source = tmp_path / "in.safetensors"
    build(source, SIZES["tiny"], "F32", "specific", 0, 10**9)
    truth, found = distance.compute(list(distance.pairs(source))), json.loads(vlmerge("distance", source, "--json"))
    assert {name: found[name] for name in distance.NAMES} == pytest.approx(
        {name: truth[name] for name in distance.NAMES}, rel=1e-12
    )


def test_inputs_of_peers_hold_as_many_bytes() -> None:
    def num_bytes(specs: dict[str, Spec]) -> int:
        return sum(spec.num_bytes for spec in specs.values())

    first, second = num_bytes(expert_specs(SIZES["base"], "F32")), num_bytes(inputs.specs_of(8))
    assert second == pytest.approx(8e9, rel=0.06)
    assert 2 * num_bytes(expert_specs(inputs.HALF, "F32", "agnostic")) == pytest.approx(first, rel=0.001)
    llama = {key: Spec("BF16", shape) for key, shape in inputs.llama_shapes().items()}
    assert 2 * num_bytes(llama) == pytest.approx(second, rel=0.02)
