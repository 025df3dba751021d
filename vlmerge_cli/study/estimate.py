"""How long a node should take: from nodes like it that are done, or from a few steps timed now."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from vlmerge_cli import records
from vlmerge_cli.data.batch import Batch
from vlmerge_cli.model.config import preset
from vlmerge_cli.study.node_work import Finetune, Pretrain, SeedPhase, VisionPhase
from vlmerge_cli.study.nodes import Node
from vlmerge_cli.study.settings import StudySettings
from vlmerge_cli.tasks.task import task
from vlmerge_cli.training.pretrain import PretrainStep
from vlmerge_cli.training.pretrain_config import Objectives
from vlmerge_cli.weights.vlmodel import VLModel

#: A fine-tuning step in pre-training steps of as many samples.
RELATIVE = {
    "vqa": 0.4, "retrieval": 0.3, "flickr30k": 0.3, "nlvr2": 0.7, "classification": 0.15, "segmentation": 0.25,
}  # fmt: skip
BESIDES_SECONDS = 4.0  # opening data, loading and scoring a model on the built-in data set
TIMED_STEPS = 3
MARGIN = 1.3  # a machine is seldom idle


def seconds_of(settings: StudySettings, costs: Path, device: str) -> Callable[[Node], float]:
    """Seconds that a node should take on one worker."""
    own: dict[str, list[float]] = {}
    for record in records.read(costs, "cost"):
        own.setdefault(_likeness(str(record.at["node"])), []).append(float(record.values["seconds"]))
    seen = {name: mean(values) for name, values in own.items()}
    per_sample: dict[int, float] = {}

    def of(node: Node) -> float:
        like = _likeness(node.name)
        if like not in seen:
            seen[like] = MARGIN * _modelled(node, settings, per_sample, device)
        return seen[like]

    return of


def announced(nodes: list[Node], seconds: Callable[[Node], float], num_workers: int) -> float:
    """Seconds on the clock: the work shared out evenly, but never less than the longest chain of nodes."""
    ends: dict[str, float] = {}
    for node in nodes:
        ends[node.name] = seconds(node) + max((ends.get(need, 0.0) for need in node.needs), default=0.0)
    return max([sum(map(seconds, nodes)) / num_workers, *ends.values()], default=0.0)


def _likeness(name: str) -> str:
    """A node's name without its seed: the same work."""
    return name.partition("/")[2]


def _modelled(node: Node, settings: StudySettings, per_sample: dict[int, float], device: str) -> float:
    work = node.work
    if isinstance(work, SeedPhase | Pretrain):
        steps = settings.seed_steps(work.model.k_seed)
        steps = steps if isinstance(work, SeedPhase) else settings.steps - steps
        return BESIDES_SECONDS + steps * settings.batch_size * _sample(work.model.width, settings, per_sample, device)
    if isinstance(work, VisionPhase | Finetune):
        name, steps, width = (
            ("classification", settings.vision_steps, work.model.width)
            if isinstance(work, VisionPhase)
            else (work.task, work.steps, int(work.at["width"]))
        )
        batch = int(settings.finetune.get("batch_size", task(name).built_in["batch_size"]))
        return BESIDES_SECONDS + steps * batch * RELATIVE[name] * _sample(width, settings, per_sample, device)
    return BESIDES_SECONDS if node.work.kind in ("score", "Grams") else 0.2


def _sample(width: int, settings: StudySettings, known: dict[int, float], device: str) -> float:
    """Seconds of a pre-training step for one sample, timed on a batch of noise."""
    if width not in known:
        standard = preset(settings.model)
        changes = {
            **settings.pretrain.get("changes", {}),
            "width": width, "ffn_width": width * standard.ffn_width // standard.width,
        }  # fmt: skip
        config = preset(settings.model, architecture="specific", heads=("itc", "itm", "mlm"), **changes)
        torch.manual_seed(0)
        step = PretrainStep(VLModel(config), Objectives(hard_from=1.0, hard_full=1.0), seed=0).to(device)
        batch = _noise(settings.batch_size, config.image_px, config.max_text_tokens, config.vocab_size).to(device)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            times = [_timed(step, batch) for _ in range(TIMED_STEPS + 1)]
        finally:
            torch.set_num_threads(num_threads)
        known[width] = min(times[1:]) / settings.batch_size
    return known[width]


def _timed(step: PretrainStep, batch: Batch) -> float:
    started = time.perf_counter()
    loss, _ = step(batch, 0.0)
    loss.backward()
    if batch.row.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _noise(size: int, px: int, num_tokens: int, num_words: int) -> Batch:
    text = torch.randint(1, num_words, (size, num_tokens))
    rows = torch.arange(size)
    fields: dict[str, Any] = {
        "image": torch.rand(size, 3, px, px), "image_id": rows, "text": text, "text_mask": text > 0,
        "masked_text": text, "masked_labels": torch.where(torch.rand(text.shape) < 0.2, text, -100),
    }  # fmt: skip
    return Batch(keys=("",) * size, row=rows, index=rows, valid=torch.ones(size, dtype=torch.bool), **fields)
