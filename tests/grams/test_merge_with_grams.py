"""What a merge does with Grams: weights of experts, the best alpha, residuals, singular data, collecting first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.cli import app
from vlmerge_cli.errors import MergeError, PlanError, UsageError
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.merging import opening
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.merging.residuals import objectives
from vlmerge_cli.methods.interpolation import Interpolation, Slope
from vlmerge_cli.methods.linalg import pack, unpack
from vlmerge_cli.methods.method import Group, Method, make
from vlmerge_cli.methods.regmean import RegMean

TINY = Path(__file__).parents[2] / "fixtures" / "tiny"
SLOT = Slot(0, "mlp.fc1.weight", "linear")


def group(experts: str = "v l", seed: int = 0, rows: int = 50, width: int = 6, slot: Slot = SLOT) -> Group:
    """Random weights (4, width) and Grams of correlated inputs, some whole and some packed."""
    draw = np.random.default_rng(seed)
    weights = {e: draw.standard_normal((4, width)) for e in experts.split()}
    inputs = {e: draw.standard_normal((rows, width)) @ draw.standard_normal((width, width)) for e in weights}
    grams = {e: x.T @ x for e, x in inputs.items()}
    grams["l"] = pack(grams["l"])
    tokens = {e: 10 * (number + 1) for number, e in enumerate(weights)}
    return Group(slot, weights, grams=grams, tokens=tokens, top=("vl",))


def full(held: np.ndarray) -> np.ndarray:
    return unpack(held) if held.ndim == 1 else held


def objective(weight: np.ndarray, of: Group, weigh: str = "tokens") -> float:
    """Σₘ ‖(W - Wᵐ) Xᵐᵀ‖², written out."""
    total = 0.0
    for expert, own in of.experts.items():
        gram = full(of.grams[expert]) / (of.tokens[expert] if weigh == "equal" else 1)
        total += np.trace((weight - own) @ gram @ (weight - own).T)
    return total


GRID = np.linspace(0, 1, 20001)


def interpolated(of: Group, alpha: float, ratio: float) -> np.ndarray:
    return Interpolation(alpha=float(alpha), vl_ratio=ratio)(of)  # type: ignore[no-any-return]


@pytest.mark.parametrize("weigh", ["tokens", "equal"])
@pytest.mark.parametrize(("experts", "ratio"), [("v l", 1 / 3), ("v l vl", 1 / 3), ("v l vl", 0.8)])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_of_a_slot_is_the_best_of_a_fine_grid(seed: int, experts: str, ratio: float, weigh: str) -> None:
    of = group(experts, seed)
    method = Interpolation(alpha="auto", vl_ratio=ratio, weigh=weigh)
    settled = method.settle({SLOT: method.examine(of)}, [SLOT])
    best = settled.alphas[SLOT.label]
    on_grid = [objective(interpolated(of, alpha, ratio), of, weigh) for alpha in GRID[::100]]
    assert objective(settled(of), of, weigh) <= min(on_grid) * (1 + 1e-12)
    assert abs(best - GRID[::100][int(np.argmin(on_grid))]) <= GRID[100]


@pytest.mark.parametrize("by", ["layer", "model"])
def test_one_alpha_for_several_slots_is_the_best_of_a_fine_grid(by: str) -> None:
    slots = [Slot(layer, name, "linear") for layer in (0, 1) for name in ("mlp.fc1.weight", "mlp.fc2.weight")]
    bias = Slot(1, "mlp.fc1.bias", "bias")
    groups = {slot: group("v l vl", number, slot=slot) for number, slot in enumerate(slots)}
    method = Interpolation(alpha="auto", auto_by=by)
    found = method.settle({slot: method.examine(of) for slot, of in groups.items()}, [*slots, bias])
    for layer in (0, 1):
        together = [slot for slot in slots if by == "model" or slot.layer == layer]
        curve = [
            sum(objective(interpolated(groups[slot], alpha, 1 / 3), groups[slot]) for slot in together)
            for alpha in GRID[::50]
        ]
        alphas = {found.alphas[slot.label] for slot in together}
        assert len(alphas) == 1
        assert abs(alphas.pop() - GRID[::50][int(np.argmin(curve))]) <= GRID[50]
    assert found.alphas[bias.label] == found.alphas[slots[2].label]


def test_biases_take_their_layers_alpha() -> None:
    """Also where each linear slot has one of its own; a layer without linear slots takes the model's."""
    slots = [Slot(0, f"mlp.fc{number}.weight", "linear") for number in (1, 2)]
    bias, elsewhere = Slot(0, "mlp.fc1.bias", "bias"), Slot(5, "norm1.bias", "norm")
    slopes = {slots[0]: Slope(1.0, 10.0), slots[1]: Slope(8.0, 10.0)}
    found = Interpolation(alpha="auto").settle(slopes, [*slots, bias, elsewhere]).alphas
    assert list(found.values()) == [0.1, 0.8, 0.45, 0.45]


def test_alpha_at_the_ends_and_where_nothing_matters() -> None:
    assert Slope(-1.0, 2.0).alpha == 0
    assert Slope(3.0, 2.0).alpha == 1
    assert Slope(0.0, 0.0).alpha == 0.5
    of = group()
    equal = Group(SLOT, {"v": of.experts["v"], "l": of.experts["v"]}, grams=of.grams)
    method = Interpolation(alpha="auto")
    settled = method.settle({SLOT: method.examine(equal)}, [SLOT])
    np.testing.assert_allclose(settled(equal), of.experts["v"], rtol=1e-15)


def test_torch_finds_the_same_alpha() -> None:
    of = group("v l vl", 3)
    on_torch = Group(
        SLOT, {e: torch.tensor(w) for e, w in of.experts.items()},
        grams={e: torch.tensor(g) for e, g in of.grams.items()}, tokens=of.tokens, top=of.top,
    )  # fmt: skip
    for method in (Interpolation(alpha="auto"), Interpolation(alpha="auto", weigh="equal")):
        assert method.examine(on_torch) == pytest.approx(method.examine(of), rel=1e-12)
    equal = RegMean(weigh="equal")
    np.testing.assert_allclose(equal(on_torch).numpy(), equal(of), rtol=1e-10)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_equal_weighing_divides_each_gram_by_its_tokens(gamma: float) -> None:
    of = group("v l vl", 1)
    means = {e: full(g) / of.tokens[e] for e, g in of.grams.items()}
    scaled = {e: gamma * g + (1 - gamma) * np.diag(np.diag(g)) for e, g in means.items()}
    expected = sum(of.experts[e] @ g for e, g in scaled.items()) @ np.linalg.inv(sum(scaled.values()))
    np.testing.assert_allclose(RegMean(gamma=gamma, weigh="equal")(of), expected, rtol=1e-9)
    assert not np.allclose(RegMean(gamma=gamma)(of), expected)


def test_more_tokens_of_an_expert_change_nothing_when_all_weigh_the_same() -> None:
    of = group("v l", 2)
    twice = Group(
        SLOT, of.experts, grams={**of.grams, "v": 2 * of.grams["v"]}, tokens={**of.tokens, "v": 20}, top=of.top
    )
    equal = RegMean(gamma=1, weigh="equal")
    np.testing.assert_allclose(equal(twice), equal(of), rtol=1e-10)
    raw = RegMean(gamma=1)
    assert not np.allclose(raw(twice), raw(of))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("interpolation", {"alpha": "best"}, "--alpha best"),
        ("interpolation", {"alpha": "1.5"}, "--alpha is 1.5"),
        ("interpolation", {"alpha": "auto", "auto_by": "head"}, "--auto-by head"),
        ("regmean", {"weigh": "same"}, "--weigh same"),
    ],
)
def test_words_that_are_no_choice(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, given)


def test_a_number_is_still_a_number() -> None:
    assert make("interpolation", {"alpha": "0.25"}) == Interpolation(alpha=0.25)


# --- residuals ---


def test_residuals_are_the_objective_relative_to_its_least_value() -> None:
    of = group("v l vl", 4)
    best = RegMean(gamma=1)(of)
    draw = np.random.default_rng(9)
    weights = {"merged": best, "average": sum(of.experts.values()) / 3, **of.experts}
    weights["other"] = draw.standard_normal((4, 6))
    found = objectives(of, weights)
    assert found.optimum == pytest.approx(objective(best, of), rel=1e-10)
    for name, weight in weights.items():
        assert found.of[name] == pytest.approx(objective(weight, of), rel=1e-10)
        assert found.ratio(name) >= 1
    assert found.ratio("merged") == pytest.approx(1, abs=1e-12)
    held = sum(np.trace(w @ full(of.grams[e]) @ w.T) for e, w in of.experts.items())
    assert found.share == pytest.approx(objective(best, of) / held)


def test_residuals_of_fewer_tokens_than_columns() -> None:
    """A singular sum still has a least value: that of any of its solutions."""
    of = group("v l", 5, rows=4, width=10)
    system = sum(full(g) for g in of.grams.values())
    right = sum(of.experts[e] @ full(g) for e, g in of.grams.items())
    solution = right @ np.linalg.pinv(system, rcond=1e-12)
    found = objectives(of, {"average": sum(of.experts.values()) / 2})
    assert found.optimum == pytest.approx(objective(solution, of), rel=1e-6, abs=1e-9)
    assert found.of["average"] == pytest.approx(objective(sum(of.experts.values()) / 2, of), rel=1e-9)


def test_residuals_where_one_weight_serves_all() -> None:
    of = group("v l", 6)
    same = Group(SLOT, {"v": of.experts["v"], "l": of.experts["v"]}, grams=of.grams)
    found = objectives(same, {"merged": of.experts["v"], "other": of.experts["l"]})
    assert found.share == 0
    assert found.ratio("merged") == 1
    assert found.ratio("other") == float("inf")


# --- data that does not determine the weights ---


@pytest.mark.parametrize("case", ["few tokens", "dead inputs"])
def test_rank_deficient_data(case: str) -> None:
    """gamma 1 is refused with a way out, and each way out is finite."""
    of = group("v l", 7, rows=2 if case == "few tokens" else 50, width=10)
    grams = {e: full(g).copy() for e, g in of.grams.items()}
    if case == "dead inputs":
        for gram in grams.values():
            gram[3], gram[:, 3] = 0, 0
    of = Group(SLOT, of.experts, grams=grams, top=of.top)
    with pytest.raises(MergeError, match="sum of the Grams is singular") as caught:
        RegMean(gamma=1)(of)
    assert "--ridge 1e-06" in caught.value.fix
    assert "--gamma 0.9" in caught.value.fix
    ridged = RegMean(gamma=1, ridge=1e-6)(of)
    assert np.isfinite(ridged).all()
    if case == "few tokens":
        largest = max(np.abs(w).max() for w in of.experts.values())
        for gamma in (0.99, 0.5, 0.0):
            merged = RegMean(gamma=gamma)(of)
            assert np.abs(merged).max() < 10 * largest
    else:
        assert "1 inputs never active" in str(caught.value)
        average = sum(of.experts.values()) / 2
        np.testing.assert_allclose(ridged[:, 3], average[:, 3], rtol=1e-9)
        with pytest.raises(MergeError, match="1 inputs never active"):
            RegMean(gamma=0.5)(of)  # nothing is known of a dead input, whatever the off-diagonal entries
        assert np.isfinite(RegMean(gamma=0.5, ridge=1e-6)(of)).all()


# --- through files and the command line ---


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def plan(method: Method, grams: Path) -> None:
    inputs = opening.Inputs(str(TINY / "specific.safetensors"), grams=str(grams))
    with opening.prepared(inputs, method, Request()):
        pass


def test_published_grams_have_no_counts(tmp_path: Path) -> None:
    """Full matrices under the published names merge, but there is nothing to divide them by."""
    from safetensors.numpy import save_file

    source = TINY / "specific.grams.safetensors"
    matrices = {}
    with open_checkpoint(source) as file:
        for key in file.tensors:
            name = key.removesuffix(".weight").removesuffix(".qkv")
            matrices[name] = unpack(np.frombuffer(file.read(key)))
    save_file(matrices, tmp_path / "published.safetensors")
    plan(RegMean(), tmp_path / "published.safetensors")
    with pytest.raises(PlanError, match="does not say how many tokens are in the Gram of v, l: --weigh tokens"):
        plan(RegMean(weigh="equal"), tmp_path / "published.safetensors")
    plan(RegMean(weigh="equal"), source)


def test_alpha_auto_on_a_checkpoint(tmp_path: Path) -> None:
    """The recipe holds every alpha, and the merged slot is the interpolation by it."""
    source = TINY / "specific.safetensors"
    done = invoke("merge", str(source), "--alpha", "auto", "-o", str(tmp_path / "auto.safetensors"), "--json")
    assert done.exit_code == 0, done.output
    alphas = json.loads(done.stdout)["learnt"]["alphas"]
    with safe_open(source, "np") as before, safe_open(tmp_path / "auto.safetensors", "np") as after:
        recipe = json.loads(after.metadata()["vlmerge"])["recipe"]
        assert recipe["alphas"] == alphas
        assert recipe["settings"] == {"alpha": "auto", "vl-ratio": 1 / 3, "auto-by": "slot", "weigh": "tokens"}
        assert len(set(alphas.values())) > 4
        for layer, top in ((0, False), (3, True)):
            for name in ("mlp.{}fc1.weight", "norm1.{}bias"):
                v, l, vl = (  # noqa: E741
                    before.get_tensor(f"transformer.blocks.{layer}.{name.format(e + '.')}") if e != "vl" or top else 0
                    for e in ("v", "l", "vl")
                )
                alpha, ratio = alphas[f"layers.{layer}.{name.format('')}"], 1 / 3 if top else 0
                expected = (1 - ratio) * (alpha * v + (1 - alpha) * l) + ratio * vl
                merged = after.get_tensor(f"transformer.blocks.{layer}.{name.format('')}")
                np.testing.assert_allclose(merged, expected, atol=1e-7)


def test_alpha_auto_where_there_is_nothing_to_find_it_from(goldens: Path, tmp_path: Path) -> None:
    done = invoke(
        "merge", str(goldens / "merge" / "custom_ln_msa.safetensors"), "--alpha", "auto",
        "-o", str(tmp_path / "a.safetensors"),
    )  # fmt: skip
    assert done.exit_code == 1
    assert "--alpha auto needs a linear weight" in done.stderr
    assert not (tmp_path / "a.safetensors").exists()


def test_the_report_of_a_merge(tmp_path: Path) -> None:
    out, report = tmp_path / "out.safetensors", tmp_path / "report.jsonl"
    words = ["merge", str(TINY / "specific.safetensors"), "-o", str(out), "--method", "regmean", "--gamma", "1"]
    assert invoke(*words, "--report", str(report)).exit_code == 0
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(rows) == 4 * 4
    for row in rows:
        values = row["values"]
        assert values["merged"] == pytest.approx(values["optimum"], rel=1e-6)  # float32 on disk
        assert values["average"] > values["merged"] * 1.01
        assert ("vl" in values) == (row["at"]["layer"] >= 2)
    table = invoke("merge", str(TINY / "specific.safetensors"), "--force", "-o", str(out), "--report", "-")
    assert table.exit_code == 0
    assert "layers.3.mlp.fc2.weight" in table.stdout
