"""A model as a folder: ``config.json``, ``model.safetensors`` and a model card; and as a Hub repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download

from vlmerge_cli import console
from vlmerge_cli.checkpoint import hub
from vlmerge_cli.checkpoint.reader import Checkpoint
from vlmerge_cli.data.provenance import moved
from vlmerge_cli.data.tokenizer import Tokenizer
from vlmerge_cli.errors import CheckpointError
from vlmerge_cli.model.config import MODEL_TYPE, ModelConfig
from vlmerge_cli.model.network import Network
from vlmerge_cli.weights import vocabulary
from vlmerge_cli.weights.inferred_config import inferred
from vlmerge_cli.weights.load import StartReport, plan
from vlmerge_cli.weights.model_folder import CARD_NAME, CONFIG_NAME, card_text, write_folder
from vlmerge_cli.weights.start_values import init_weights
from vlmerge_cli.weights.torch_source import Source, open_source, source_of


class VLModel(PyTorchModelHubMixin, Network, library_name="vlmerge"):  # type: ignore[misc,call-arg]
    """A network with numbers in it: start values, or those of a checkpoint.

        model = VLModel(preset("base", architecture="specific", heads=("itc", "itm", "mlm")))
        model = VLModel.from_pretrained("path/to/folder", heads=("vqa",), image_px=480)

    ``init=False`` leaves its numbers undefined for a caller that will set them all.
    """

    start_report: StartReport | None = None  # what from_pretrained found
    about: Mapping[str, Any]  # what the checkpoint that it came from says of itself: data, tokenizer, answers, recipe
    place: Path | None = None  # where that checkpoint lies

    def __init__(self, config: ModelConfig, *, init: bool = True) -> None:
        super().__init__(config)
        self.about = {}
        if init:
            init_weights(self)

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
        return cls._from_source(open_source(place), model_id, config, changes)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **changes: Any) -> Self:
        """``from_pretrained`` for a checkpoint that is open already."""
        return cls._from_source(source_of(checkpoint), checkpoint.name, None, changes)

    @classmethod
    def _from_source(
        cls, source: Source, model_id: str, config: ModelConfig | Mapping[str, Any] | None, changes: Mapping[str, Any]
    ) -> Self:
        stored = config_of(source.config if config is None else config, source.tensors, model_id, changes)
        model = cls(stored.change(**changes), init=False)
        fitted = plan(model, source.tensors, model_id, config=stored)
        report = fitted.report
        if report.fresh and not changes:
            what = ", ".join(report.fresh[:3]) + (", ..." if len(report.fresh) > 3 else "")
            raise CheckpointError(f"the weights lack {len(report.fresh)} tensors: {what}", where=model_id)
        if report.fresh or report.resized:
            init_weights(model)
        model.start_report = fitted.apply(model)
        model.about, model.place = _still_true(source.about, stored, model.config), source.path
        if report.fresh or report.resized or report.unused:
            console.say_lines(report.summary())
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        about: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        sync: bool = True,
        **kwargs: Any,
    ) -> str | None:
        """Write the folder; each file is whole or absent, and a new folder appears as a whole.

        ``about`` (JSON values) goes into the safetensors metadata beside the configuration, the file of
        ``tokenizer`` beside the weights; without them a model that was loaded keeps what its checkpoint had.
        ``state_dict`` stands in for the model's own where its parts are elsewhere (gathered from several ranks).
        Other files of an existing folder stay, and so does its model card.
        """
        folder = Path(save_directory)
        if about is None:
            about = self.about if self.place is None else moved(self.about, self.place, folder)
        values = self.state_dict() if state_dict is None else state_dict
        tensors = {key: value.detach().cpu().contiguous() for key, value in values.items()}
        stored = json.dumps({**about, "config": self.config.to_dict()}, sort_keys=True)
        metadata = {"format": "pt", "vlmerge": stored}
        extras = {
            CONFIG_NAME: (json.dumps(self.config.to_dict(), indent=2) + "\n").encode(),
            CARD_NAME: str(self.generate_model_card()).encode(),
            **self._vocabulary(about, tokenizer),
        }
        write_folder(folder, tensors, metadata, extras, sync)
        if push_to_hub:
            kwargs.pop("config", None)
            return PyTorchModelHubMixin.push_to_hub(self, repo_id or folder.name, **kwargs)  # type: ignore[no-any-return]
        return None

    def _vocabulary(self, about: Mapping[str, Any], tokenizer: Tokenizer | None) -> dict[str, bytes]:
        """The file of the vocabulary: of ``tokenizer``, or the one that came with the model."""
        if tokenizer is not None:
            return vocabulary.file_of(tokenizer)
        if self.place is None or vocabulary.DIGEST not in about:
            return {}
        return vocabulary.file_of(vocabulary.load(about, self.place, self.config))

    def generate_model_card(self, **_: Any) -> ModelCard:
        """What the model is, and how to load it."""
        return ModelCard(card_text(self.config, sum(p.numel() for p in self.parameters())))


def _still_true(about: Mapping[str, Any], stored: ModelConfig, config: ModelConfig) -> dict[str, Any]:
    """What a checkpoint says of itself, without the names of what a changed head no longer numbers."""
    named = {"answers": ("vqa", "num_answers"), "classes": ("classification", "num_classes")}
    if "segmentation" in stored.heads:
        named["classes"] = ("segmentation", "num_segments")
    gone = {"config"} | {
        entry
        for entry, (head, size) in named.items()
        if head not in {*stored.heads} & {*config.heads} or getattr(stored, size) != getattr(config, size)
    }
    return {name: value for name, value in about.items() if name not in gone}


def config_of(
    given: ModelConfig | Mapping[str, Any] | None,
    tensors: Mapping[str, torch.Tensor],
    where: str,
    changes: Mapping[str, Any],
) -> ModelConfig:
    """The stored configuration, or the one that the shapes tell; what they do not tell is guessed and said."""
    if isinstance(given, ModelConfig):
        return given
    if given is not None and given.get("model_type", MODEL_TYPE) == MODEL_TYPE:
        return ModelConfig.from_dict(given, where)
    known = {name: changes[name] for name in ("fusion_layer", "num_heads", "max_text_tokens") if name in changes}
    found = inferred({key: tuple(tensor.shape) for key, tensor in tensors.items()}, where, **known)
    if found.guessed:
        console.warn(f"{where}: {found}")
    return found.config
