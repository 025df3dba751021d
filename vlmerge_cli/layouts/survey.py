"""What a checkpoint holds, seen through a layout: groups of experts, shared tensors, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from vlmerge_cli.checkpoint.quantised import FIX, quantised
from vlmerge_cli.errors import LayoutError, PlanError, nearest
from vlmerge_cli.layouts import LAYOUTS
from vlmerge_cli.layouts.layout import Layout, Slot, built_in

#: What training wraps around a model's keys; recognised where no layout knows the keys as they are.
WRAPPERS = ("module.", "model.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "state_dict.", "flava.")
MOST_STACKED = 8
#: What is put around a part of a model, in the middle of its keys.
INSIDE = r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."


@dataclass(frozen=True)
class Survey:
    """Every key of a checkpoint, in exactly one of these places.

    ``groups``: slots that experts hold apart, with each expert's key · ``single``: slots stored once ·
    ``shared``: other known keys of a block · ``outside``: keys outside the blocks · ``unknown``: the rest.
    """

    layout: Layout
    groups: Mapping[Slot, Mapping[str, str]]
    single: Mapping[Slot, str]
    shared: tuple[str, ...]
    outside: tuple[str, ...]
    unknown: tuple[str, ...]

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have a slot, rising."""
        return tuple(sorted({slot.layer for slot in (*self.groups, *self.single)}))

    @cached_property
    def experts(self) -> dict[int, tuple[str, ...]]:
        """Experts of each layer, in the layout's order; an empty tuple for a layer that has none."""
        found: dict[int, set[str]] = {layer: set() for layer in self.layers}
        for slot, keys in self.groups.items():
            found[slot.layer] |= set(keys)
        return {layer: tuple(e for e in self.layout.experts if e in its) for layer, its in found.items()}

    @property
    def architecture(self) -> str:
        """The layout's name for what the experts own: specific, agnostic or one between."""
        return self.layout.architecture({slot.module for slot in self.groups})

    @cached_property
    def second_copy(self) -> tuple[str, int]:
        """The prefix under which the experts lie a second time (an average of training, EMA), and how many keys.

        With or without the dots that some tools take out; ("", 0) without one.
        """
        known = {form for keys in self.groups.values() for key in keys.values() for form in (key, _dotless(key))}
        counts: dict[str, int] = {}
        for key in self.outside:
            for place in (at for at, sign in enumerate(key, 1) if sign in "._/"):
                if key[place:] in known:
                    counts[key[:place]] = counts.get(key[:place], 0) + 1
        return max(counts.items(), key=lambda item: item[1], default=("", 0))

    def check_not_quantised(self, doing: str, where: str) -> None:
        """Raises PlanError for weights of the blocks that a quantiser has packed."""
        of_experts = (key for keys in self.groups.values() for key in keys.values())
        if what := quantised((*self.unknown, *self.shared, *of_experts)):
            raise PlanError(f"cannot {doing} quantised weights: {what}", where=where, fix=FIX)

    def problems(self) -> list[str]:
        """What keeps the checkpoint from being merged, as sentences; empty when all is well."""
        return [
            *(f"unknown key inside a block: {key}" for key in self.unknown),
            *self._missing_layers(),
            *self._missing_experts(),
            *self._doubled(),
            *self._uneven_modules(),
        ]

    def _missing_layers(self) -> Iterable[str]:
        for before, layer in zip((-1, *self.layers), self.layers, strict=False):
            if layer == before + 2:
                yield f"layer {layer - 1} is missing"
            elif layer > before + 2:
                yield f"layers {before + 1} to {layer - 1} are missing"

    def _missing_experts(self) -> Iterable[str]:
        """Every expert is in every layer, except those of the top, which are in all layers from their first."""
        first = {
            e: min((layer for layer, its in self.experts.items() if e in its), default=None)
            for e in self.layout.experts
        }
        for slot, keys in self.groups.items():
            for expert, since in first.items():
                if expert in keys or (expert in self.layout.top and (since is None or slot.layer < since)):
                    continue
                key = self.layout.source_key(slot, expert)
                if expert in self.experts[slot.layer]:
                    yield f"layer {slot.layer} {slot.name}: expert {expert} is missing ({key})"
                elif slot == next(other for other in self.groups if other.layer == slot.layer):
                    yield f"layer {slot.layer}: expert {expert} is missing in every slot, such as {key}"

    def _doubled(self) -> Iterable[str]:
        for slot, key in self.single.items():
            if slot in self.groups:
                yield f"layer {slot.layer} {slot.name} is stored both per expert and once ({key})"

    def _uneven_modules(self) -> Iterable[str]:
        """A slot that is per expert in one layer is in all of them: per expert, or once where it is merged already."""
        names = sorted({slot.name for slot in self.groups})
        held = {(slot.layer, slot.name) for slot in (*self.groups, *self.single)}
        for layer, name in ((layer, name) for layer in self.layers for name in names):
            if (layer, name) not in held:
                yield f"layer {layer} {name} is missing for every expert"


def _dotless(key: str) -> str:
    return key.replace(".", "")


def survey(layout: Layout, keys: Iterable[str]) -> Survey:
    """Sort every key into its place."""
    groups: dict[Slot, dict[str, str]] = {}
    single: dict[Slot, str] = {}
    shared, outside, unknown = [], [], []
    for key in keys:
        place = layout.place(key)
        if place is not None and place.expert is not None:
            groups.setdefault(place.slot, {})[place.expert] = key
        elif place is not None:
            single[place.slot] = key
        elif layout.is_shared(key):
            shared.append(key)
        elif layout.in_block(key):
            unknown.append(key)
        else:
            outside.append(key)
    ordered = {
        slot: {expert: keys[expert] for expert in layout.experts if expert in keys} for slot, keys in groups.items()
    }
    return Survey(layout, ordered, single, tuple(shared), tuple(outside), tuple(unknown))


def detect(keys: Iterable[str], where: str) -> tuple[Survey, str]:
    """The built-in layout that fits the keys best, and the reason in words.

    It is decided by how many keys are slots of an expert; without any, by how many are merged slots.
    Raises LayoutError when no layout knows any key.
    """
    keys = list(keys)
    best = max(_fitting(keys), key=lambda s: (sum(map(len, s.groups.values())), len(s.single) - len(s.unknown)))
    if not best.groups and not best.single:
        best = next((s for prefix in _wrappers(keys) for s in _fitting(keys, prefix) if s.groups or s.single), best)
    num_experts, num_single = sum(map(len, best.groups.values())), len(best.single)
    if num_experts == num_single == 0:
        if what := quantised(keys):
            raise LayoutError(f"quantised: {what}", where=where, fix=FIX)
        fix = "describe its names in a layout file: --layout my.yaml (vlmerge layouts --show vl-merging is one)"
        if inside := next((match[1] for key in keys if (match := re.search(INSIDE, key))), ""):
            fix = f"take {inside}. out of its names first (save the model that torch.compile, FSDP or the like wrapped)"
        raise LayoutError(f"none of the layouts {', '.join(LAYOUTS)} knows its keys", where=where, fix=fix)
    if num_experts == 0:
        return best, f"{num_single} of {len(keys)} keys are slots of a merged transformer, none of an expert"
    example = next(iter(next(iter(best.groups.values())).values()))
    return best, f"{num_experts} of {len(keys)} keys are slots of an expert, such as {example}"


def _wrappers(keys: list[str]) -> Iterable[str]:
    """What keys begin with that training wraps around a model: one or more of WRAPPERS, the shortest first."""
    wrapper = "|".join(map(re.escape, WRAPPERS))
    stacks = {match[0] for key in keys if (match := re.match(f"(?:{wrapper})+", key))}
    parts = [re.findall(wrapper, stack)[:MOST_STACKED] for stack in stacks]
    found = {"".join(its[: count + 1]) for its in parts for count in range(len(its))}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _fitting(keys: list[str], prefix: str = "") -> Iterable[Survey]:
    """Surveys under the built-in layouts, up to the first that knows every key of its blocks.

    Where one expert has the names of an ordinary transformer, a checkpoint without any other is not of that layout.
    """
    for name in LAYOUTS:
        layout = built_in(name)
        found = survey(layout.under(prefix) if prefix else layout, keys)
        if found.layout.has_plain_names and not any(len(its) > 1 for its in found.groups.values()):
            found = survey(found.layout, ()) if found.groups else found
        yield found
        if (found.groups or found.single) and not found.unknown:
            return


def find(keys: Iterable[str], layout: Layout | None, where: str) -> tuple[Survey, str]:
    """``survey`` under a given layout, or ``detect``."""
    if layout is None:
        return detect(keys, where)
    keys = list(keys)
    found = survey(layout, keys)
    if not found.groups and not found.single:
        wrapped = (survey(layout.under(prefix), keys) for prefix in _wrappers(keys))
        found = next((s for s in wrapped if s.groups or s.single), found)
    if not found.groups and not found.single:
        template = next(iter(layout.rules[0].sources.values()))
        near = nearest(template, keys).removeprefix("did you mean ")
        raise LayoutError(f"no key fits layout {layout.name}, such as {template}", where=where, fix=f"nearest: {near}")
    return found, f"layout {layout.name} as asked"
