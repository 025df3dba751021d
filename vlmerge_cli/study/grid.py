"""The paper's grid as a graph of nodes: what is trained once, what is merged how, what is scored on what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlmerge_cli.study.node_work import Finetune, Grams, Measure, Merge, Pretrain, Score, SeedPhase, VisionPhase
from vlmerge_cli.study.nodes import Model, Node, Work
from vlmerge_cli.study.settings import StudySettings

#: Part of the grid -> what it is for.
PARTS = {
    "seeding": "length of the seed phase: Tables 1 and 5, Figure 3",
    "methods": "merge methods and their options: Table 2",
    "sharing": "architectures that share modules: Figure 4",
    "tasks": "the recipe on more tasks: Table 3",
    "widths": "narrower models: Table 4",
    "after": "merging after fine-tuning instead of before: footnote 4",
}
ZERO_SHOT = ("retrieval", "itm")
PLAIN: Mapping[str, Any] = {"alpha": 0.5}  # the merge that all models are compared by


@dataclass
class _Graph:
    """Nodes in the order in which they can run; one that is asked for again serves another part as well."""

    settings: StudySettings
    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, part: str, name: str, work: Work, *needs: str) -> str:
        known = self.nodes.get(name)
        if known is None:
            self.nodes[name] = Node(name, work, needs, frozenset({part}))
        else:
            self.nodes[name] = replace(known, parts=known.parts | {part})
        return name

    def model(self, part: str, model: Model) -> str:
        """A pre-trained model, after the phases that come before it."""
        start = self.start(part, model)
        return self.add(part, model.name, Pretrain(model, start), *([] if start is None else [start]))

    def start(self, part: str, model: Model) -> str | None:
        """The node whose weights all experts start from; None where they start from nothing."""
        agnostic = replace(model, arch="agnostic")
        vision = None
        if self.settings.vision_steps:
            vision = self.add(part, f"seed{model.seed}/width{model.width}/vision", VisionPhase(agnostic))
        if self.settings.seed_steps(model.k_seed) == 0:
            return vision
        needs = [] if vision is None else [vision]
        return self.add(part, f"{model.family}/seed", SeedPhase(agnostic, vision), *needs)

    def merge(self, part: str, model: Model, method: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """A merged model and how records describe the merge."""
        source = self.model(part, model)
        needs, base, grams = [source], None, None
        if method == "arithmetic":
            base = self.start(part, model)
            assert base is not None, "arithmetic is studied after a seed phase"
            needs.append(base)
        if method == "regmean":
            grams = self.add(part, f"{source}/grams", Grams(source), source)
            needs.append(grams)
        work = Merge(source, method, options, base, grams)
        return self.add(part, f"{source}/{_label(method, options)}", work, *needs), work.described()

    def scores(
        self, part: str, source: str, model: Model, merge: dict[str, Any] | None, tasks: Mapping[str, int],
        zero_shot: bool = True, seeds: tuple[int, ...] = (1,),
    ) -> None:  # fmt: skip
        """Zero-shot scores of a checkpoint and those after fine-tuning on ``tasks``."""
        order = None if merge is None else "before"
        for task in ZERO_SHOT if zero_shot else ():
            at = _at(model, merge, order, task, 0, 0)
            self.add(part, f"{source}/zero-shot-{task}", Score(source, task, at), source)
        for task, steps in tasks.items():
            for seed in seeds:
                at = _at(model, merge, order, task, steps, seed)
                self.add(part, _finetuned(source, task, seed), Finetune(source, task, steps, seed, at), source)

    def before_and_merged(
        self, part: str, model: Model, tasks: Mapping[str, int], zero_shot: bool = True, seeds: tuple[int, ...] = (1,)
    ) -> None:  # fmt: skip
        """A specific model as it is and merged by the plain average."""
        self.scores(part, self.model(part, model), model, None, tasks, zero_shot, seeds)
        merged, how = self.merge(part, model, "interpolation", PLAIN)
        self.scores(part, merged, model, how, tasks, zero_shot, seeds)


def build(settings: StudySettings, seeds: tuple[int, ...]) -> list[Node]:
    """All nodes, those of one seed after those of the other, each after what it needs."""
    graph = _Graph(settings)
    for seed in seeds:
        main = Model(seed, settings.widths[0], "specific", settings.recipe_k_seed)
        _seeding(graph, main)
        _methods(graph, main)
        _sharing(graph, main)
        _after(graph, main)
        _tasks(graph, main)
        _widths(graph, main)
    return list(graph.nodes.values())


def _seeding(graph: _Graph, main: Model) -> None:
    settings, part = graph.settings, "seeding"
    agnostic = replace(main, arch="agnostic", k_seed=0.0)
    tasks, seeds = settings.finetune_steps, settings.finetune_seeds
    graph.scores(part, graph.model(part, agnostic), agnostic, None, tasks, seeds=seeds)
    for share in settings.k_seed:
        model = replace(main, k_seed=share)
        graph.before_and_merged(part, model, tasks, seeds=seeds)
        graph.add(part, f"{model.name}/distances", Measure(model), model.name)


def _methods(graph: _Graph, main: Model) -> None:
    settings, part = graph.settings, "methods"
    graph.scores(part, graph.model(part, main), main, None, settings.finetune_steps)
    for method, options in _points(settings):
        merged, how = graph.merge(part, main, method, options)
        graph.scores(part, merged, main, how, settings.finetune_steps)


def _points(settings: StudySettings) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from (("interpolation", {"alpha": float(value)}) for value in settings.alphas)
    yield from (("arithmetic", {"lam": float(value)}) for value in settings.lambdas)
    yield from (("regmean", {"gamma": float(value)}) for value in settings.gammas)


def _sharing(graph: _Graph, main: Model) -> None:
    for arch in graph.settings.sharing:
        graph.before_and_merged("sharing", replace(main, arch=arch), graph.settings.finetune_steps)


def _after(graph: _Graph, main: Model) -> None:
    """Fine-tuned as specific models, then merged."""
    part = "after"
    for share in (0.0, main.k_seed):
        model = replace(main, k_seed=share)
        graph.before_and_merged(part, model, graph.settings.finetune_steps, zero_shot=False)
        for task, steps in graph.settings.finetune_steps.items():
            source = _finetuned(model.name, task, 1)
            work = Merge(source, "interpolation", PLAIN)
            merged = graph.add(part, f"{source}/{_label('interpolation', PLAIN)}", work, source)
            at = _at(model, work.described(), "after", task, steps, 1)
            graph.add(part, f"{merged}/score", Score(merged, task, at), merged)


def _tasks(graph: _Graph, main: Model) -> None:
    """The recipe, beside both architectures and the merge without a seed phase."""
    part, tasks = "tasks", graph.settings.more_tasks
    agnostic = replace(main, arch="agnostic", k_seed=0.0)
    graph.scores(part, graph.model(part, agnostic), agnostic, None, tasks, zero_shot=False)
    graph.before_and_merged(part, replace(main, k_seed=0.0), tasks, zero_shot=False)
    for options in _recipes(graph.settings):
        merged, how = graph.merge(part, main, "interpolation", options)
        graph.scores(part, merged, main, how, tasks, zero_shot=False)


def _recipes(settings: StudySettings) -> list[dict[str, Any]]:
    """The merges that the paper recommends, of those that are studied."""
    return [{"alpha": alpha} for alpha in (0.5, 0.75) if alpha in settings.alphas]


def _widths(graph: _Graph, main: Model) -> None:
    settings, part = graph.settings, "widths"
    tasks = {**settings.finetune_steps, **{t: s for t, s in settings.more_tasks.items() if t == "nlvr2"}}
    for width in settings.widths[1:]:
        agnostic = replace(main, width=width, arch="agnostic", k_seed=0.0)
        graph.scores(part, graph.model(part, agnostic), agnostic, None, tasks)
        for share in (0.0, main.k_seed):
            graph.before_and_merged(part, replace(main, width=width, k_seed=share), tasks)


def _finetuned(source: str, task: str, seed: int) -> str:
    return f"{source}/finetuned-{task}-{seed}"


def _label(method: str, options: Mapping[str, Any]) -> str:
    return "-".join([method, *(f"{name}{value:g}" for name, value in options.items())])


def _at(
    model: Model, merge: dict[str, Any] | None, order: str | None, task: str, steps: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    return {
        **model.at(), "merge": merge, "order": order, "task": task, "finetune_steps": steps, "finetune_seed": seed,
    }  # fmt: skip
