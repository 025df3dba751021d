"""Starting weights: another checkpoint of the family, a seed copied into all experts, or an image-only BEiT.

Everything is accounted for: each parameter of the model is loaded, resized or left at its start value, each
tensor of the source is used or not, and the report lists all four. What cannot fit is refused, all of it at
once, before the model is touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmerge_cli.errors import PlanError, UsageError, nearest, one_line
from vlmerge_cli.model import positions
from vlmerge_cli.model.config import MODEL_TYPE, ModelConfig, grid_of
from vlmerge_cli.model.network import Network
from vlmerge_cli.weights.foreign_names import IMAGE_TABLE, Named, translated
from vlmerge_cli.weights.torch_source import open_source

EXPERTS = ("v", "l", "vl")
TABLE = "relative_position_bias_table"

_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.")
_EXPERT_KEY = re.compile(r"(transformer\.blocks\.\d+\.(?:attn|mlp|norm1|norm2))\.(v|l|vl)(\..+)")
_PUBLISHED_TEXT_ROOM = 196


@dataclass(frozen=True)
class StartReport:
    """What became of every tensor on both sides.

    ``loaded``: parameter -> the source's key (or keys); ``resized``: parameter -> what was done to it;
    ``fresh``: parameters left at their start values; ``unused``: keys of the source.
    """

    source: str
    form: str
    loaded: Mapping[str, str]
    resized: Mapping[str, str]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """One line, and one for each kind that needs a look; names in them end no line."""
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded, {len(self.resized)} resized, "
                 f"{len(self.fresh)} left at their start values, {len(self.unused)} not used"]  # fmt: skip
        lines += [f"  resized: {key}, {how}" for key, how in self.resized.items()]
        lines += [f"  {what}: {', '.join(names)}" for what, names in
                  (("start values", self.fresh), ("not used", self.unused)) if names]  # fmt: skip
        return "\n".join(map(one_line, lines))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Plan:
    """What will be done; ``steps`` makes the new value of a parameter."""

    report: StartReport
    steps: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def apply(self, model: Network) -> StartReport:
        parameters = dict(model.named_parameters())
        for key, make in self.steps.items():
            parameters[key].copy_(make())
        return self.report


def load_weights(
    model: Network,
    source: str | Path | Mapping[str, Tensor],
    *,
    into: Iterable[str] = EXPERTS,
    leave: Iterable[str] = (),
    config: ModelConfig | None = None,
) -> StartReport:
    """Set the model's parameters from a file, folder, Hub repository or named tensors.

    Weights that the source shares go to each expert of ``into`` (an image-only BEiT as much as an agnostic
    seed); the other experts keep their start values. ``leave``: patterns of parameters to leave
    alone. ``config`` is the source's own, where it does not come along and its tables are of another size.
    Raises PlanError for what does not fit, CheckpointError for what cannot be read or is of no known form.
    """
    if isinstance(source, Mapping):
        return plan(model, source, "the given tensors", into=into, leave=leave, config=config).apply(model)
    opened = open_source(source)
    if config is None and opened.config is not None and opened.config.get("model_type") == MODEL_TYPE:
        config = ModelConfig.from_dict(opened.config, opened.name)
    return plan(model, opened.tensors, opened.name, into=into, leave=leave, config=config).apply(model)


def plan(
    model: Network,
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    into: Iterable[str] = EXPERTS,
    leave: Iterable[str] = (),
    config: ModelConfig | None = None,
) -> Plan:
    """What load_weights would do."""
    into, leave = tuple(into), tuple(leave)
    room = positions.Room(config.grid, config.text_bias_tokens) if config else _room_of(model, tensors)
    parameters = dict(model.named_parameters())
    _check_choices(into, leave, parameters)
    named, form = translated(tensors, name)
    problems = _depth_problems(model, named)
    loaded: dict[str, str] = {}
    resized: dict[str, str] = {}
    fresh: list[str] = []
    used: set[str] = set()
    steps: dict[str, Callable[[], Tensor]] = {}
    for key, parameter in parameters.items() if not problems else ():
        left = any(fnmatchcase(key, pattern) for pattern in leave)
        found = None if left else _find(named, key, into)
        if found is None:
            fresh.append(key)
            if not left and (why := _why_missing(named, key, into, form)):
                problems.append(why)
            continue
        tensor, sources = named[found]
        fitted = _fitted(model, key, parameter, found, tensor, room)
        if isinstance(fitted, str):
            problems.append(fitted)
            continue
        how, steps[key] = fitted
        used.update(sources)
        if how:
            resized[key] = how
        else:
            loaded[key] = sources[0] if len(sources) == 1 else f"{sources[0]} ... {sources[-1]}"
    if problems:
        fix = "change the model's settings, merge first, or leave parameters out with `leave`"
        raise PlanError("these weights do not fit the model:", problems=problems, where=name, fix=fix)
    unused = tuple(key for key in tensors if key not in used)
    return Plan(StartReport(name, form, loaded, resized, tuple(fresh), unused), steps)


def _check_choices(into: tuple[str, ...], leave: tuple[str, ...], parameters: Mapping[str, object]) -> None:
    for name in into:
        if name not in EXPERTS:
            raise UsageError(f"no expert {name!r}", fix=nearest(name, EXPERTS))
    for pattern in leave:
        if not any(fnmatchcase(key, pattern) for key in parameters):
            raise UsageError(f"no parameter matches {pattern!r}", fix=nearest(pattern, parameters))


def _depth_problems(model: Network, named: Named) -> list[str]:
    depth = 1 + max((int(match[1]) for key in named if (match := _BLOCK.match(key))), default=-1)
    ours = model.config.num_layers
    return [] if depth == ours else [f"{depth} layers, the model has {ours}"]


def _find(named: Named, key: str, into: tuple[str, ...]) -> str | None:
    """The source's key for one of ours: itself, or the shared one that it is a copy of."""
    if key in named:
        return key
    if key == TABLE and IMAGE_TABLE in named:
        return IMAGE_TABLE
    match = _EXPERT_KEY.fullmatch(key)
    if match and match[2] in into and (shared := match[1] + match[3]) in named:
        return shared
    return None


def _why_missing(named: Named, key: str, into: tuple[str, ...], form: str) -> str:
    """Why a parameter that nothing was found for cannot stay at its start value; empty when it can."""
    match = _EXPERT_KEY.fullmatch(key)
    if match and match[2] not in into and match[1] + match[3] in named:
        return ""
    stem, _, leaf = (match[1] + match[3] if match else key).rpartition(".")
    if form != "vision-language" and leaf in ("gamma_1", "gamma_2", "q_bias", "v_bias"):
        return ""  # a ViT has no layer scale, and some models no such biases
    owned = [f"{'.'.join(stem.split('.')[:4])}.{expert}." for expert in EXPERTS]
    if not match and any(other.startswith(tuple(owned)) for other in named):
        return f"{key}: the source has one for each expert, the model shares it"
    if key.startswith(("transformer.blocks.", "transformer.patch_embed.", "transformer.cls_token")):
        return f"{key}: the source has none"
    return ""


Fitted = tuple[str, Callable[[], Tensor]]


def _fitted(
    model: Network, key: str, parameter: Tensor, found: str, tensor: Tensor, room: positions.Room | None
) -> Fitted | str:
    """(what is done to ``tensor``, how it is done), or why it cannot be made to fit."""
    if not tensor.is_floating_point():
        return f"{key}: {str(tensor.dtype).removeprefix('torch.')} is no type of weights"
    old, new = tuple(tensor.shape), tuple(parameter.shape)
    if found == IMAGE_TABLE:
        return _fit_image_table(model, parameter, tensor)
    if old == new:
        return "", lambda: tensor
    if key == TABLE and old[1] == new[1] and room and (room.num_rows, room.text_tokens > 1) == (old[0], True):
        to = model.room
        before, after = (f"{r.grid}×{r.grid} patches and {r.text_tokens} text tokens" for r in (room, to))
        how = f"{before} to {after}"
        return how, lambda: positions.resize_table(tensor, room, to)
    if key == "transformer.pos_embed" and old[2] == new[2] and (grid := round((old[1] - 1) ** 0.5)) ** 2 == old[1] - 1:
        to_grid = model.config.grid
        return (
            f"{grid}×{grid} patches to {to_grid}×{to_grid}",
            lambda: positions.resize_absolute(tensor, grid, to_grid),
        )
    if key == "text_embeddings.position_embeddings.weight" and old[1] == new[1]:
        how = f"{old[0]} text tokens to {new[0]}" + (", new ones at their start values" if new[0] > old[0] else "")
        return how, lambda: torch.cat([tensor[: new[0]].to(parameter), parameter[old[0] :]])
    if key == "token_type_embeddings.weight" and old[1] == new[1] and {old[0], new[0]} == {2, 3}:
        how = "a third row, copied from the second" if new[0] == 3 else "the third row left out"
        return how, lambda: tensor[[0, 1, 1]] if new[0] == 3 else tensor[:2]
    return f"{key}: the source has {old}, the model {new}"


def _fit_image_table(model: Network, parameter: Tensor, table: Tensor) -> Fitted | str:
    """An image-only table to ours: patch rows resized, [CLS] rows kept, text rows at their start values."""
    grid = grid_of(len(table), 3)
    if grid is None or table.shape[1] != parameter.shape[1]:
        return f"{TABLE}: the source has {tuple(table.shape)}, the model {tuple(parameter.shape)}"
    room = model.room

    def make() -> Tensor:
        rows = positions.resize_patch_rows(table[:-3], grid, room.grid)
        return torch.cat([rows.to(parameter), table[-3:].to(parameter), parameter[room.num_patch_rows + 3 :]])

    return f"{grid}×{grid} patches to {room.grid}×{room.grid}, rows with text at their start values", make


def _room_of(model: Network, source: Mapping[str, Tensor]) -> positions.Room | None:
    """What the source's table is sized for: by its index of image pairs, else by a text length that fits."""
    if TABLE not in source:
        return None
    num_rows, index = len(source[TABLE]), source.get("relative_position_index")
    if index is not None:
        grid = round((len(index) - 1) ** 0.5)
        return positions.Room(grid, (num_rows - 5 - (2 * grid - 1) ** 2) // 2)
    for text_tokens in (model.config.text_bias_tokens, _PUBLISHED_TEXT_ROOM):
        fits = grid_of(num_rows, 5 + 2 * text_tokens)
        if fits:
            return positions.Room(fits, text_tokens)
    return positions.Room(model.config.grid, (num_rows - 5 - model.room.num_patch_rows) // 2)
