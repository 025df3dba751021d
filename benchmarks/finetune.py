"""Fine-tuning from a pre-trained checkpoint beside fine-tuning from start values, on every task.

    python -m benchmarks.finetune CKPT [STEPS]

CKPT is what ``vlmerge pretrain`` leaves (small, on the built-in data set). Everything but the weights is the same on
both sides: data, steps, settings, seeds. Each run's last model is scored on the test split; no setting was chosen by
these scores. Records that are there already are not made again.
"""

from __future__ import annotations

import shutil
import sys
import time

import torch

from benchmarks.harness import RESULTS, WORK, machine
from vlmerge_cli import console, records
from vlmerge_cli.records import Record
from vlmerge_cli.tasks.task import task
from vlmerge_cli.training.finetune import Run, finetune
from vlmerge_cli.training.finetune_config import load
from vlmerge_cli.training.scoring import Question, score
from vlmerge_cli.training.start import look

TASKS = ("vqa", "nlvr2", "retrieval", "classification", "segmentation")
SEEDS = (1, 2, 3)
STEPS = 200


def main(checkpoint: str, steps: int) -> None:
    torch.set_num_threads(1)
    file = RESULTS / "finetune.jsonl"
    done = {tuple(record.at[name] for name in ("task", "start", "seed", "steps")) for record in records.read(file)}
    start = look(checkpoint)
    for seed in SEEDS:
        for name in TASKS:
            for weights in ("pretrained", "random"):
                if (name, weights, seed, steps) in done:
                    continue
                given = {
                    "task": name, "checkpoint": checkpoint, "random": weights == "random", "steps": steps,
                    "seed": seed, "saving.validate_every": steps, "saving.every": steps, "saving.log_every": steps,
                    "max_samples": 64,
                }  # fmt: skip
                config = load(start, None, given, [])
                folder = WORK / "finetune"
                began = time.perf_counter()
                finetune(Run(config, folder), force=True)
                seconds = time.perf_counter() - began
                found = score(str(folder), Question(name, split="test")).scores
                values = {"score": round(found.values[task(name).main], 2), "seconds": round(seconds, 1)}
                at = {"task": name, "start": weights, "seed": seed, "steps": steps, "batch": config.batch_size,
                      "lr": config.optimizer.lr, "measure": task(name).main, "samples": found.num_samples,
                      **machine()}  # fmt: skip
                records.append(file, Record("finetune", at, values))
                console.say(f"{name}, {weights}, seed {seed}: {values['score']}")
                shutil.rmtree(folder)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    WORK.mkdir(parents=True, exist_ok=True)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else STEPS)
