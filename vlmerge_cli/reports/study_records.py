"""The records of a study as something to ask: which score has which model, over its seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any, NamedTuple

from vlmerge_cli.records import Record
from vlmerge_cli.reports.document import Number

#: The setting that a method is tried at.
SETTING = {"interpolation": "alpha", "arithmetic": "lambda", "regmean": "gamma"}
SYMBOL = {"interpolation": "α", "arithmetic": "λ", "regmean": "γ"}
ARCHITECTURES = {
    "specific": "fully custom", "custom-attn": "custom attention", "custom-ffn": "custom FFN",
    "custom-ln": "custom norms", "agnostic": "agnostic",
}  # fmt: skip
#: Other settings at which a merge is the paper's.
_USUAL = {"sequential": False, "weigh": "tokens", "vl-ratio": 1 / 3}


class Score(NamedTuple):
    """A number that an evaluation gives; ``label`` in words."""

    task: str
    value: str
    finetuned: bool
    label: str


ZERO_SHOT = Score("retrieval", "mean_recall", False, "retrieval, zero-shot")
MATCHING = Score("itm", "accuracy", False, "ITM, zero-shot")
RETRIEVAL = Score("retrieval", "mean_recall", True, "retrieval")
TR = Score("retrieval", "tr_mean", True, "TR")
IR = Score("retrieval", "ir_mean", True, "IR")
VQA = Score("vqa", "accuracy", True, "VQA")
NLVR2 = Score("nlvr2", "accuracy", True, "NLVR²")
CLASSIFICATION = Score("classification", "top1", True, "classification")
SEGMENTATION = Score("segmentation", "miou", True, "segmentation")
FLICKR_TR = Score("flickr30k", "tr_mean", True, "Flickr30k TR")
FLICKR_IR = Score("flickr30k", "ir_mean", True, "Flickr30k IR")


@dataclass(frozen=True)
class Pick:
    """A model, and how it was merged; its seed is left open. Without ``method`` it was not."""

    arch: str = "specific"
    k_seed: float = 0.0
    method: str = ""
    at: float = math.nan  # of the method's setting
    order: str = "before"  # merged before it was fine-tuned, or after; zero-shot counts as before
    width: int = 0  # 0: the study's main one

    def merged(self, at: float = 0.5, method: str = "interpolation", order: str = "before") -> Pick:
        return replace(self, method=method, at=at, order=order)


@dataclass(frozen=True)
class Values:
    """One number a seed, the mean over its fine-tuning runs.

    ``variance`` is that of the mean as a sample of the test set's size gives it; NaN where that is not known.
    """

    by_seed: Mapping[int, float] = field(default_factory=dict)
    variance: float = math.nan

    def __bool__(self) -> bool:
        return bool(self.by_seed)

    @property
    def mean(self) -> float:
        return fmean(self.by_seed.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    def number(self, digits: int = 2) -> Number | None:
        """As a table shows it; None without any."""
        return Number(self.mean, self.spread, digits) if self else None

    def within(self, other: Values) -> Values:
        """Of the seeds that ``other`` has too."""
        return replace(self, by_seed={seed: v for seed, v in self.by_seed.items() if seed in other.by_seed})

    def minus(self, other: Values) -> Values:
        """Differences within the seeds that both have."""
        own = self.within(other).by_seed
        return Values({seed: v - other.by_seed[seed] for seed, v in own.items()}, self.variance + other.variance)


MSA = Pick()
MAA = Pick("agnostic")
MB = MSA.merged()


class Study:
    """All records of a study. What was merged with unusual settings is left out; the paper has no such rows."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.info: Mapping[str, Any] = next((r.values for r in self.records if r.kind == "study"), {})
        self.preset = next((str(r.at.get("preset", "")) for r in self.records if r.kind == "study"), "")
        scores = [r for r in self.records if r.kind == "score"]
        self._steps = _finetune_steps(scores, self.info)
        self._scores: dict[tuple[Any, ...], dict[int, list[Mapping[str, Any]]]] = {}
        for record in scores:
            self._file(record)
        self.widths = sorted({int(r.at["width"]) for r in self.records if "width" in r.at}, reverse=True)
        self.seeds = sorted({int(r.at["seed"]) for r in self.records if "seed" in r.at})

    @property
    def width(self) -> int:
        """The main one: the study's first, the widest of those that have records if it does not say."""
        said = self.info.get("widths") or [0]
        return int(said[0]) if said[0] in self.widths else max(self.widths, default=0)

    @property
    def recipe(self) -> Pick:
        """The model that methods, architectures and tasks are compared on: in the paper after half of the steps."""
        return Pick(k_seed=float(self.info.get("recipe_k_seed", 0.5)))

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def values(self, score: Score, pick: Pick, split: str = "test") -> Values:
        """A model's score, seed by seed; empty where there is no record."""
        found = self._scores.get(self._key(score, pick, split), {})
        numbers = {
            seed: fmean(float(run[score.value]) for run in runs)
            for seed, runs in sorted(found.items())
            if all(score.value in run for run in runs)
        }
        samples = min((int(run.get("num_samples", 0)) for runs in found.values() for run in runs), default=0)
        return Values(numbers, _binomial(numbers, samples))

    def drop(self, score: Score, pick: Pick) -> Values:
        """Unmerged minus merged by plain interpolation (α = 0.5), in points."""
        return self.values(score, pick).minus(self.values(score, pick.merged()))

    def k_seeds(self, arch: str = "specific", width: int = 0) -> list[float]:
        """Seed phases of an architecture that have scores, rising, as shares of the steps."""
        wanted = {"arch": arch, "width": width or self.width}
        return sorted({_round(r.at["k_seed"]) for r in self.of("score") if wanted.items() <= r.at.items()})

    def tried(self, score: Score, pick: Pick, method: str, split: str = "test") -> list[float]:
        """Values of the method's setting that have this score, rising."""
        wanted = self._key(score, pick.merged(0.0, method), split)
        return sorted(key[-1] for key in self._scores if key[:-1] == wanted[:-1])

    def best(self, score: Score, pick: Pick, method: str, among: Sequence[float] | None = None) -> Pick | None:
        """The setting with the best mean on the validation split, of those that have a test score; of equals the first.

        The mean is over the seeds that all have, if there are such. None where nothing was validated.
        """
        settings = [at for at in self.tried(score, pick, method) if among is None or at in among]
        found = {at: self.values(score, pick.merged(at, method), "val").by_seed for at in settings}
        found = {at: by_seed for at, by_seed in found.items() if by_seed}
        if not found:
            return None
        shared = set.intersection(*map(set, found.values()))
        means = {at: fmean(v for seed, v in by_seed.items() if seed in shared or not shared)
                 for at, by_seed in found.items()}  # fmt: skip
        return pick.merged(max(means, key=lambda at: means[at]), method)

    def ours(self, score: Score, width: int = 0) -> Pick | None:
        """The recipe's model, merged by interpolation at the α that validates best on this score.

        Where nothing was validated: the paper's α, else 0.5, else the first there is; None without any score.
        """
        pick = replace(self.recipe, width=width)
        tested = self.tried(score, pick, "interpolation")
        at = next((a for a in (0.75, 0.5) if a in tested), tested[0] if tested else math.nan)
        return self.best(score, pick, "interpolation") or (pick.merged(at) if tested else None)

    def _key(self, score: Score, pick: Pick, split: str) -> tuple[Any, ...]:
        width = pick.width or self.width
        model = (width, pick.arch, _round(pick.k_seed))
        order = pick.order if pick.method else ""
        at = _round(pick.at) if pick.method else 0.0
        return (score.task, score.finetuned, split, *model, order, pick.method, at)

    def _file(self, record: Record) -> None:
        at = record.at
        steps = int(at.get("finetune_steps", 0))
        if steps not in (0, self._steps.get(at["task"], 0)):
            return
        method, value = "", 0.0
        if at.get("merge") is not None:
            method, settings = at["merge"]["method"], at["merge"]["settings"]
            if method not in SETTING or not isinstance(settings.get(SETTING[method]), float | int):
                return
            if any(name in settings and not _same(settings[name], usual) for name, usual in _USUAL.items()):
                return
            value = _round(settings[SETTING[method]])
        order = (at.get("order") or "before") if method else ""
        model = (int(at["width"]), at["arch"], _round(at["k_seed"]))
        key = (at["task"], steps > 0, at["split"], *model, order, method, value)
        self._scores.setdefault(key, defaultdict(list))[int(at["seed"])].append(record.values)


def _finetune_steps(scores: Iterable[Record], info: Mapping[str, Any]) -> dict[str, int]:
    """How long a task's fine-tuning is: as the study says, else the longest there is."""
    said = info.get("finetune_steps")
    found: dict[str, set[int]] = defaultdict(set)
    for record in scores:
        found[record.at["task"]].add(int(record.at.get("finetune_steps", 0)))
    asked = said if isinstance(said, Mapping) else {}
    return {task: asked[task] if asked.get(task) in steps else max(steps) for task, steps in found.items()}


def _binomial(percents: Mapping[int, float], samples: int) -> float:
    """p (100 - p) / n of a score in percent."""
    if not percents or not samples:
        return math.nan
    share = min(max(fmean(percents.values()), 0.0), 100.0)
    return share * (100 - share) / samples


def _same(one: Any, other: Any) -> bool:
    return math.isclose(one, other) if isinstance(other, float) else bool(one == other)


def _round(value: float) -> float:
    return round(float(value), 9)
