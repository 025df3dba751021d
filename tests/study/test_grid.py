"""The grid: what is trained once, what needs what, what a part of it takes along."""

from __future__ import annotations

from collections import Counter

import pytest

from vlmerge_cli.errors import UsageError
from vlmerge_cli.study.estimate import announced
from vlmerge_cli.study.grid import PARTS, build
from vlmerge_cli.study.node_work import Finetune, Merge, Pretrain, Score, SeedPhase, pretrain_settings
from vlmerge_cli.study.nodes import Model, Node, chosen
from vlmerge_cli.study.settings import STUDIES, load


@pytest.mark.parametrize("preset", STUDIES)
def test_every_node_comes_after_what_it_needs(preset: str) -> None:
    nodes = build(load(preset, None, []), (1, 2))
    seen: set[str] = set()
    for node in nodes:
        assert set(node.needs) <= seen, node.name
        seen.add(node.name)
    assert len(seen) == len(nodes)


@pytest.mark.parametrize("preset", STUDIES)
def test_every_model_of_a_preset_can_be_made(preset: str) -> None:
    settings = load(preset, None, [])
    for node in build(settings, (1,)):
        if isinstance(node.work, SeedPhase | Pretrain):
            model = node.work.model
            config = pretrain_settings(settings, model, steps=settings.steps, seed_steps=0, arch=model.arch)
            made = config.model_of(model.arch, vocab_size=96)
            assert (made.width, made.architecture) == (model.width, model.arch)
            assert made.ffn_width == 2 * model.width
            assert config.batch_size == settings.batch_size


def test_a_seed_phase_is_trained_once_and_used_by_all_that_start_from_it() -> None:
    nodes = build(load("full", None, []), (1,))
    kinds = Counter(node.work.kind for node in nodes)
    assert kinds["vision phase"] == 2  # one a width
    assert kinds["seed phase"] == 4  # 25, 50 and 75 % of the steps, and 50 % of the narrow model
    # agnostic and four specific ones, three that share modules; three of the narrow model
    assert kinds["pre-training"] == 11
    users = [n.name.rpartition("/")[2] for n in nodes if "seed1/width64/kseed50/seed" in n.needs and n.work.kind]
    assert {"specific", "custom-attn", "custom-ffn", "custom-ln", "arithmetic-lam0.5"} <= set(users)


def test_without_a_vision_phase_models_start_where_the_user_says() -> None:
    settings = load("full", None, ["vision_steps=0", "pretrain.init=beit.safetensors"])
    nodes = {node.name: node for node in build(settings, (1,))}
    assert nodes["seed1/width64/kseed0/specific"].needs == ()
    assert nodes["seed1/width64/kseed50/seed"].needs == ()
    model = Model(1, 64, "agnostic")
    assert pretrain_settings(settings, model, steps=5, seed_steps=0, arch="agnostic").init == "beit.safetensors"


def test_the_merges_are_those_of_table_2() -> None:
    nodes = build(load("full", None, []), (1,))
    main = "seed1/width64/kseed50/specific/"
    found = {
        (node.work.method, *node.work.options.values())
        for node in nodes
        if isinstance(node.work, Merge) and node.name.startswith(main) and "finetuned" not in node.name
    }
    fifths = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found == {
        *(("interpolation", value) for value in fifths),
        *(("arithmetic", value) for value in fifths),
        *(("regmean", value) for value in (0.0, 0.5, 0.9, 1.0)),
    }


def test_merging_after_fine_tuning_is_scored_without_more_training() -> None:
    nodes = {node.name: node for node in build(load("full", None, []), (1,))}
    name = "seed1/width64/kseed0/specific/finetuned-vqa-1/interpolation-alpha0.5"
    assert isinstance(nodes["seed1/width64/kseed0/specific/finetuned-vqa-1"].work, Finetune)
    assert nodes[name].needs == ("seed1/width64/kseed0/specific/finetuned-vqa-1",)
    score = nodes[f"{name}/score"].work
    assert isinstance(score, Score)
    assert score.at["order"] == "after"
    assert score.at["merge"]["settings"]["alpha"] == 0.5


def test_a_part_takes_along_what_it_needs_and_nothing_else() -> None:
    nodes = build(load("full", None, []), (1,))
    found = chosen(nodes, ["sharing"])
    names = {node.name for node in found}
    assert "seed1/width64/kseed50/seed" in names
    assert not [name for name in names if "kseed25" in name or "width32" in name or "regmean" in name]
    assert sum(isinstance(node.work, Pretrain) for node in found) == 3
    assert chosen(nodes, []) == nodes
    assert {name for node in nodes for name in node.parts} == set(PARTS)


def test_announced_time_is_the_work_shared_out_or_the_longest_chain() -> None:
    chain = [Node("a", None), Node("b", None, ("a",)), Node("c", None)]  # type: ignore[arg-type]
    seconds = {"a": 10.0, "b": 20.0, "c": 2.0}
    assert announced(chain, lambda node: seconds[node.name], 1) == 32.0
    assert announced(chain, lambda node: seconds[node.name], 2) == 30.0
    assert announced([], lambda node: 1.0, 2) == 0.0


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["stesp=3"], "did you mean 'steps'"),
        (["k_seed=[0.5]"], "lacks 0"),
        (["k_seed=[0,1.5]"], "not within [0, 1)"),
        (["more_tasks={vqaa: 3}"], "did you mean 'vqa'"),
        (["model=smal"], "did you mean 'small'"),
        (["task_data={vqaa: [x]}"], "did you mean 'vqa'"),
        (["sharing=[custom-att]"], "did you mean 'custom-attn'"),
    ],
)
def test_wrong_settings_are_refused_by_name(sets: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load("full", None, sets)
    assert said in str(caught.value)


def test_a_task_may_have_data_of_its_own() -> None:
    settings = load("full", None, ["data=[coco=/data/coco]", "task_data={classification: [imagenet=/data/imagenet]}"])
    assert settings.data_of("classification") == ("imagenet=/data/imagenet",)
    assert settings.data_of("vqa") == ("coco=/data/coco",)


def test_maps_of_tasks_are_replaced_and_others_added_to() -> None:
    settings = load("full", None, ["finetune_steps={vqa: 3}", "shapes.val=16"])
    assert settings.finetune_steps == {"vqa": 3}
    assert settings.shapes == {"num_things": (1, 2), "val": 16}
    with pytest.raises(UsageError, match="no preset"):
        load("ful", None, [])


def test_arithmetic_without_a_common_start_is_refused() -> None:
    with pytest.raises(UsageError, match="arithmetic needs weights that all experts started from"):
        load("full", None, ["recipe_k_seed=0", "vision_steps=0"])
    assert load("full", None, ["recipe_k_seed=0", "vision_steps=0", "lambdas=[]"]).lambdas == ()
