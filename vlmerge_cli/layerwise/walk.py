"""Up through the layers: fit each slot of a layer to what the merged layers below feed it, then go one layer up.

Four passes over the streams fit qkv, proj, fc1 and fc2 one after the other, each with the merged weights before it in
place. A block of pairs is in memory at a time, the streams are files in the work folder, so memory does not grow with
the number of pairs. After every layer what is solved is kept: a stopped run goes on from there to the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmerge_cli import ranks
from vlmerge_cli.errors import UsageError
from vlmerge_cli.layerwise import halves
from vlmerge_cli.layerwise.fit import Fit, rows_of
from vlmerge_cli.layerwise.halves import Give, Layer
from vlmerge_cli.layerwise.streams import Stream, Streams, as_tensors, bias_of, from_tensors, parted
from vlmerge_cli.weights.vlmodel import VLModel

See = Callable[[Layer, Stream, Give], None]


@dataclass(frozen=True)
class Settings:
    """What each stream counts for beside the text's and the image's own, and how much the average draws.

    ``ridge`` is relative to the mean of the diagonal. The joint stream needs more weight than the others, since
    matching looks at it alone; the second path of ITC nearly none.
    """

    joint: float = 4.0
    second: float = 0.1
    ridge: float = 1e-6

    @property
    def weights(self) -> dict[str, float]:
        return {"joint": self.joint, "text by vl": self.second, "image by vl": self.second}


@dataclass(frozen=True)
class Walk:
    """``teacher`` is the untouched model, ``merged`` the agnostic one that is filled in, both in one precision."""

    teacher: VLModel
    merged: VLModel
    folder: Path
    settings: Settings
    about: Mapping[str, Any]

    def run(
        self, open_streams: Callable[[], Iterator[Streams]], advance: Callable[[int], object] = lambda _: None
    ) -> None:
        """Fit every layer; ``open_streams`` gives this rank's blocks of pairs before layer 0.

        ``advance`` is told each layer done. Raises MergeError, and UsageError for a folder of another run.
        """
        first = self._resume()
        with torch.no_grad():
            if first == 0:
                self._store(0, (as_tensors(streams) for streams in open_streams()))
            advance(first)
            for layer in range(first, self.merged.config.num_layers):
                self._layer(layer)
                advance(1)
        ranks.barrier()
        if ranks.is_main():
            shutil.rmtree(self.folder)

    # --- one layer ------------------------------------------------------------------------------------------

    def _layer(self, layer: int) -> None:
        config = self.teacher.config
        new: Any = self.merged.transformer.blocks[layer]
        if config.own_attention:
            self._fit(layer, layer, "attn.qkv", new.attn, halves.queries)
            self._fit(layer, layer, "attn.proj", new.attn.proj, halves.mixtures)
        self._store("middle", self._through(layer, layer, halves.attend))
        if config.own_ffn:
            self._fit(layer, "middle", "mlp.fc1", new.mlp.fc1, halves.hidden)
            self._fit(layer, "middle", "mlp.fc2", new.mlp.fc2, halves.outputs)
        self._store(layer + 1, self._through(layer, "middle", halves.feed))
        self._finish(layer)

    def _fit(
        self, layer: int, at: int | str, name: str, module: Any, see: Callable[[Layer, Stream, Give], None]
    ) -> None:
        """Sum up over all streams, solve, and put the result into the merged model."""
        linear = module.qkv if name == "attn.qkv" else module
        fit = Fit(f"layer {layer} {name}", linear.in_features, linear.out_features, linear.weight.device)

        for streams in self._load(layer, at):
            for key, stream in streams.items():
                see(self._at(layer, key, stream), stream, partial(_give, fit, key))
        if linear is module:
            weight, bias = fit.solve(linear.weight, linear.bias, self.settings.ridge, self.settings.weights)
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        else:
            self._set_qkv(module, fit)

    def _set_qkv(self, attention: Any, fit: Fit) -> None:
        """The key has no bias, so its third is solved without one."""
        for part, bias in enumerate((attention.q_bias, None, attention.v_bias)):
            rows = slice(part * fit.width, (part + 1) * fit.width)
            average = attention.qkv.weight[rows]
            weight, solved = fit.rows(rows).solve(average, bias, self.settings.ridge, self.settings.weights)
            average.copy_(weight)
            if bias is not None:
                bias.copy_(solved)

    def _through(
        self, layer: int, at: int | str, half: Callable[[Layer, Stream], Stream]
    ) -> Iterator[dict[str, Tensor]]:
        """Both streams after a half of a layer."""
        for streams in self._load(layer, at):
            yield as_tensors({key: half(self._at(layer, key, stream), stream) for key, stream in streams.items()})

    def _at(self, layer: int, key: str, stream: Stream) -> Layer:
        own, new = (model.transformer.blocks[layer] for model in (self.teacher, self.merged))
        return Layer(own, new, bias_of(self.teacher, key, stream, layer))

    # --- what is kept on disk -------------------------------------------------------------------------------

    def _place(self, at: int | str) -> Path:
        return self.folder / f"streams-{at}-rank{ranks.rank()}"

    def _store(self, at: int | str, blocks: Iterator[dict[str, Tensor]]) -> None:
        place = self._place(at)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for number, tensors in enumerate(blocks):
            save_file(tensors, place / f"{number:06d}.safetensors")

    def _load(self, layer: int, at: int | str) -> Iterator[Streams]:
        """The streams before a layer or in its middle; those that only vl runs begin where the top layers do."""
        config, device = self.teacher.config, next(self.teacher.parameters()).device
        for path in sorted(self._place(at).iterdir()):
            streams = from_tensors(load_file(path, device=str(device)), config, layer)
            yield parted(streams) if at == layer == config.fusion_layer else streams

    def _finish(self, layer: int) -> None:
        """All of a layer is solved: keep it, and let go of what came before."""
        ranks.barrier()
        if ranks.is_main():
            block = self.merged.transformer.blocks[layer].state_dict()
            save_file(
                {name: value.contiguous() for name, value in block.items()}, self.folder / f"layer-{layer}.safetensors"
            )
            marker = self.folder / "progress.json.partial"
            marker.write_text(json.dumps({"done": layer + 1, "about": self._described()}), encoding="utf-8")
            marker.rename(self.folder / "progress.json")
        ranks.barrier()
        for old in (layer, "middle"):
            shutil.rmtree(self._place(old), ignore_errors=True)

    def _resume(self) -> int:
        """How many layers are done; their weights are put in place."""
        file = self.folder / "progress.json"
        if not file.exists():
            return 0
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["about"] != self._described():
            fix = f"remove the folder {self.folder}, or use the same checkpoint, data and settings"
            raise UsageError("an interrupted merge with other settings is there", where=str(self.folder), fix=fix)
        for layer in range(found["done"]):
            self.merged.transformer.blocks[layer].load_state_dict(load_file(self.folder / f"layer-{layer}.safetensors"))
        return int(found["done"])

    def _described(self) -> dict[str, Any]:
        return json.loads(json.dumps({**asdict(self.settings), **self.about, "ranks": ranks.world_size()}))  # type: ignore[no-any-return]


def _give(fit: Fit, stream: str, x: Tensor, y: Tensor, mask: Tensor | None) -> None:
    fit.add(stream, rows_of(x, mask), rows_of(y, mask))
