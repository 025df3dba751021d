"""A model as a folder: ``config.json``, ``model.safetensors`` and a model card; and as a Hub repository."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download

from vlmerge_cli import console
from vlmerge_cli.checkpoint import hub, writer
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.legacy import DTYPES, as_bytes
from vlmerge_cli.checkpoint.reader import INDEX_NAME, SINGLE_NAME
from vlmerge_cli.errors import CheckpointError, UsageError
from vlmerge_cli.model import weights
from vlmerge_cli.model.config import MODEL_TYPE, ModelConfig
from vlmerge_cli.model.infer import infer_config
from vlmerge_cli.model.init import init_weights
from vlmerge_cli.model.torch_source import open_source

CONFIG_NAME = "config.json"
CARD_NAME = "README.md"


class HubFolder(PyTorchModelHubMixin, library_name="vlmerge"):  # type: ignore[misc,call-arg]
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` for VLModel."""

    config: ModelConfig
    start_report: weights.StartReport | None = None  # what from_pretrained found

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """A model from a folder, a file, or ``org/name`` on the Hub.

        Fields of the configuration may be changed on the way: ``heads=("vqa",), image_px=480`` gives a new
        head and resized positions, and one line on stderr says so. A file without a configuration is
        understood by its shapes. The Hub's own arguments (revision, token, cache_dir, force_download,
        local_files_only) are as everywhere.
        Raises CheckpointError for weights that are missing or broken, PlanError for those that do not fit.
        """
        return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **kwargs)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        config: ModelConfig | Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Self:
        place = model_id
        if not Path(model_id).exists():
            if cache_dir or force_download or local_files_only or token is not None:
                place = snapshot_download(
                    model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token,
                )  # fmt: skip
            else:
                place = str(hub.download(f"{model_id}@{revision}" if revision else model_id))
        source = open_source(place)
        stored = config_of(source.config if config is None else config, source.tensors, model_id, changes)
        model = cls(stored.change(**changes), init=False)
        plan = weights.plan(model, source.tensors, model_id, config=stored)
        if plan.report.fresh and not changes:
            what = ", ".join(plan.report.fresh[:3]) + (", ..." if len(plan.report.fresh) > 3 else "")
            raise CheckpointError(f"the weights lack {len(plan.report.fresh)} tensors: {what}", where=model_id)
        if plan.report.fresh or plan.report.resized:
            init_weights(model)
        model.start_report = plan.apply(model)
        if plan.report.fresh or plan.report.resized or plan.report.unused:
            console.say(plan.report.summary())
        return model.eval()  # type: ignore[no-any-return]

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        about: Mapping[str, Any] | None = None,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        sync: bool = True,
        **kwargs: Any,
    ) -> str | None:
        """Write the folder; each file is whole or absent, and a new folder appears as a whole.

        ``about`` (JSON values) goes into the safetensors metadata beside the configuration. ``state_dict``
        stands in for the model's own where its parts are elsewhere (gathered from several ranks). Other
        files of an existing folder stay, and so does its model card.
        """
        folder = Path(save_directory)
        values = self.state_dict() if state_dict is None else state_dict
        tensors = {key: value.detach().cpu().contiguous() for key, value in values.items()}
        stored = json.dumps({**(about or {}), "config": self.config.to_dict()}, sort_keys=True)
        metadata = {"format": "pt", "vlmerge": stored}
        extras = {
            CONFIG_NAME: (json.dumps(self.config.to_dict(), indent=2) + "\n").encode(),
            CARD_NAME: str(self.generate_model_card()).encode(),
        }
        _write_folder(folder, tensors, metadata, extras, sync)
        if push_to_hub:
            kwargs.pop("config", None)
            return self.push_to_hub(repo_id or folder.name, **kwargs)  # type: ignore[no-any-return]
        return None

    def generate_model_card(self, **_: Any) -> ModelCard:
        """What the model is, and how to load it."""
        config = self.config
        num_parameters = sum(p.numel() for p in self.parameters())
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.to_dict().items() if name != "model_type")
        return ModelCard(_CARD.format(
            architecture=config.architecture, parameters=console.count(num_parameters),
            heads=", ".join(config.heads) or "none", rows=rows,
        ))  # fmt: skip


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
from vlmerge_cli.model.vlmodel import VLModel

model = VLModel.from_pretrained("<this folder or repository>")
```

| setting | value |
|---|---|
{rows}
"""


def config_of(
    given: ModelConfig | Mapping[str, Any] | None,
    tensors: Mapping[str, torch.Tensor],
    where: str,
    changes: Mapping[str, Any],
) -> ModelConfig:
    """The stored configuration, or the one that the shapes tell."""
    if isinstance(given, ModelConfig):
        return given
    if given is not None and given.get("model_type", MODEL_TYPE) == MODEL_TYPE:
        return ModelConfig.from_dict(given, where)
    known = {name: changes[name] for name in ("fusion_layer", "num_heads", "max_text_tokens") if name in changes}
    return infer_config({key: tuple(tensor.shape) for key, tensor in tensors.items()}, where, **known)


def _write_folder(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    extras: Mapping[str, bytes],
    sync: bool,
) -> None:
    """A new folder as a whole; into an existing one file by file, the weights last."""
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
    with writer.create(writer.Target(target, force=True, sync=sync), specs, metadata, extras) as output:
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
