"""The files of a saved model: weights, ``config.json``, the model card; each whole or absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch

from vlmerge_cli import console
from vlmerge_cli.checkpoint import writer
from vlmerge_cli.checkpoint.door import INDEX_NAME, SINGLE_NAME
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.legacy import DTYPES, as_bytes
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.errors import UsageError
from vlmerge_cli.model.config import ModelConfig

CONFIG_NAME = "config.json"
CARD_NAME = "README.md"

_CARD = """---
library_name: vlmerge
tags:
- vlmerge
- vision-language
- model_hub_mixin
---
# A vision-language transformer ({architecture})

{parameters} parameters; heads: {heads}. Vision, language and cross-modal transformers in the layout of
vlmerge, which can inspect, measure and merge them (`vlmerge inspect`, `vlmerge distance`, `vlmerge merge`).

```python
from vlmerge_cli.weights.vlmodel import VLModel

model = VLModel.from_pretrained("<this folder or repository>")
```

| setting | value |
|---|---|
{rows}
"""


def card_text(config: ModelConfig, num_parameters: int) -> str:
    """What the model is, and how to load it."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in config.to_dict().items() if name != "model_type")
    return _CARD.format(
        architecture=config.architecture, parameters=console.count(num_parameters),
        heads=", ".join(config.heads) or "none", rows=rows,
    )  # fmt: skip


def write_folder(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    extras: Mapping[str, bytes],
    sync: bool,
) -> None:
    """A new folder as a whole; into an existing one file by file, the weights last, the model card if there is none."""
    if folder.suffix == ".safetensors" or folder.is_file():
        raise UsageError(f"{folder} is a file", fix="name a folder")
    specs = {key: Spec(DTYPES[tensor.dtype], tuple(tensor.shape)) for key, tensor in tensors.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = folder
    if folder.exists():
        if (folder / INDEX_NAME).exists():
            raise UsageError(f"{folder} holds a checkpoint in shards", fix="save into another folder")
        for name, content in extras.items():
            if name != CARD_NAME or not (folder / name).exists():
                _write_file(folder / name, content, sync)
        target, extras = folder / SINGLE_NAME, {}
    with writer.create(Target(target, force=True, sync=sync), specs, metadata, extras) as output:
        for key, tensor in tensors.items():
            output.write(key, 0, as_bytes(tensor))


def _write_file(path: Path, content: bytes, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
