"""A layout: how one family of checkpoints names the tensors of its blocks.

Its YAML form is strict (an unknown word is refused with the nearest known one) and free of depth: ``{layer}``
and ``{expert}`` are placeholders. The built-in files in this folder show every field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from vlmerge_cli.errors import LayoutError, UsageError, nearest
from vlmerge_cli.layouts import LAYOUTS
from vlmerge_cli.layouts.fields import checked_map, list_of_strings, map_of_strings, template

KINDS = ("linear", "bias", "norm", "other")


class Slot(NamedTuple):
    """One tensor position of the merged transformer: layer 3, ``mlp.fc1.weight``, a linear weight."""

    layer: int
    name: str
    kind: str

    @property
    def module(self) -> str:
        """``mlp`` of ``mlp.fc1.weight``."""
        return self.name.partition(".")[0]

    @property
    def label(self) -> str:
        """How the slot is written in messages and patterns: ``layers.3.mlp.fc1.weight``."""
        return f"layers.{self.layer}.{self.name}"


@dataclass(frozen=True)
class Rule:
    """Where one slot's tensors are; keys are full templates with ``{layer}``, ``sources`` has one of each expert.

    ``gram`` is the template of the published name of XᵀX of the slot's input; ``same_input_as`` names the
    slot whose Gram serves this one too (q, k and v read the same input).
    """

    name: str
    merged: str
    sources: Mapping[str, str]
    kind: str
    gram: str = ""
    same_input_as: str = ""


class Place(NamedTuple):
    """What a key is: a slot, of one expert or (None) stored once for all."""

    slot: Slot
    expert: str | None


@dataclass(frozen=True)
class Layout:
    """See the built-in YAML files for the meaning of the fields."""

    name: str
    about: str
    experts: Mapping[str, str]
    top: tuple[str, ...]
    blocks: str
    rules: tuple[Rule, ...]
    shared: tuple[str, ...]
    architectures: Mapping[str, tuple[str, ...]]

    def place(self, key: str) -> Place | None:
        """Slot and expert of a key; None when it is no slot of this layout."""
        parts = key.split(".")
        for index, part in enumerate(parts):
            if _is_number(part):
                found = self._templates.get(".".join([*parts[:index], "{layer}", *parts[index + 1 :]]))
                if found:
                    rule, expert = found
                    return Place(Slot(int(part), rule.name, rule.kind), expert)
        return None

    def in_block(self, key: str) -> bool:
        """Whether a key lies inside a block, where every key must be known."""
        return any(
            key.startswith(prefix) and key[len(prefix) :].partition(".")[0].isdecimal() for prefix in self._prefixes
        )

    def is_shared(self, key: str) -> bool:
        """Whether a key inside a block is one that all experts share."""
        parts = key.split(".")
        return any(
            _is_number(part) and ".".join([*parts[:i], "{layer}", *parts[i + 1 :]]) in self._shared
            for i, part in enumerate(parts)
        )

    def rule(self, slot: Slot) -> Rule:
        return self._rules[slot.name]

    def merged_key(self, slot: Slot) -> str:
        """The key of a slot in a merged checkpoint."""
        return self.rule(slot).merged.format(layer=slot.layer)

    def source_key(self, slot: Slot, expert: str) -> str:
        """The key of one expert's tensor of a slot."""
        return self.rule(slot).sources[expert].format(layer=slot.layer)

    def gram_keys(self, slot: Slot, expert: str) -> tuple[str, str]:
        """(key of the packed triangle, published name of the full matrix) of a linear slot's input."""
        rule = self._rules[self.rule(slot).same_input_as or slot.name]
        packed = rule.sources[expert].format(layer=slot.layer)
        published = rule.gram.format(layer=slot.layer, expert=self.experts[expert])
        return packed, published or packed.removesuffix(".weight")

    def architecture(self, modules: set[str]) -> str:
        """Name of the architecture whose per-expert modules are exactly these."""
        if not modules:
            return "agnostic"
        for name, its in self.architectures.items():
            if set(its) == modules:
                return name
        return "custom (" + ", ".join(sorted(modules)) + ")"

    def under(self, prefix: str) -> Layout:
        """The same layout where every key has ``prefix``, in the output as well."""
        rules = tuple(
            replace(
                rule,
                merged=prefix + rule.merged,
                sources={expert: prefix + source for expert, source in rule.sources.items()},
                gram=prefix + rule.gram if rule.gram else "",
            )
            for rule in self.rules
        )
        return replace(self, blocks=prefix + self.blocks, rules=rules)

    @cached_property
    def has_plain_names(self) -> bool:
        """Whether some expert's keys are those of an ordinary transformer, which then prove no expert by themselves."""
        return "" in self.experts.values()

    @cached_property
    def _rules(self) -> dict[str, Rule]:
        return {rule.name: rule for rule in self.rules}

    @cached_property
    def _templates(self) -> dict[str, tuple[Rule, str | None]]:
        table: dict[str, tuple[Rule, str | None]] = {rule.merged: (rule, None) for rule in self.rules}
        for rule in self.rules:
            for expert, source in rule.sources.items():
                table[source] = (rule, expert)
        return table

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        merged = {rule.merged.partition("{layer}")[0] for rule in self.rules}
        sources = {self.blocks.replace("{expert}", word).partition("{layer}")[0] for word in self.experts.values()}
        return tuple(sorted(merged | sources))

    @cached_property
    def _shared(self) -> set[str]:
        return {self.blocks.replace("{expert}", word) + name for name in self.shared for word in self.experts.values()}


def _is_number(part: str) -> bool:
    """Whether a part of a key is a layer as one writes it: ``3``, not ``03``, which would be a second layer 3."""
    return part.isascii() and part.isdecimal() and (part == "0" or part[0] != "0")


def built_in(name: str) -> Layout:
    """A layout of LAYOUTS by its name."""
    return load(Path(__file__).parent / f"{name}.yaml")


def named(name: str) -> Layout:
    """A built-in layout by name, or one from a YAML file by path. Raises UsageError and LayoutError."""
    if name in LAYOUTS:
        return built_in(name)
    if Path(name).suffix in (".yaml", ".yml"):
        return load(Path(name))
    raise UsageError(f"no layout {name!r}", fix=f"{nearest(name, LAYOUTS)} or name a .yaml file")


def load(path: Path) -> Layout:
    """Read and check a layout file. Raises LayoutError with the file, the field and the nearest known word."""
    import yaml

    if path.exists() and not path.is_file():
        raise LayoutError(f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            document = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise LayoutError(f"cannot read layout file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise LayoutError(f"not valid YAML: {' '.join(str(error).split())}", where=str(path)) from None
    try:
        return from_mapping(document)
    except ValueError as error:
        raise LayoutError(str(error), where=str(path)) from None


def from_mapping(document: Any) -> Layout:
    """A layout from plain data; ValueError says what is wrong."""
    fields = checked_map(
        document,
        "the layout",
        required=("name", "experts", "blocks", "slots"),
        optional=("about", "top", "into", "shared", "architectures"),
    )
    experts = map_of_strings(fields["experts"], "experts")
    blocks = template(fields["blocks"], "blocks", "layer", "expert")
    into = template(fields.get("into", blocks), "into", "layer", "expert")
    if blocks.count("{layer}") != 1 or into.count("{layer}") != 1:
        raise ValueError("blocks and into need one {layer} each")
    if "{expert}" in into:
        raise ValueError("blocks holds {expert}, so the merged blocks need a name of their own: into")
    top = list_of_strings(fields.get("top"), "top")
    for expert in top:
        if expert not in experts:
            raise ValueError(f"top: unknown expert {expert!r}: {nearest(expert, experts)}")
    if len(set(experts) - set(top)) < 2:
        raise ValueError("experts: at least two must be in every layer")
    slots = fields["slots"]
    if not isinstance(slots, dict) or not slots:
        raise ValueError("slots: expected a map of slot names")
    rules = tuple(_rule(str(name), fields, blocks, into, slots, experts) for name, fields in slots.items())
    sources = Counter(source for rule in rules for source in rule.sources.values())
    for rule in rules:
        for source in rule.sources.values():
            if sources[source] > 1:
                raise ValueError(f"slots.{rule.name}.from: two slots are read from {source}")
    modules = {rule.name.partition(".")[0] for rule in rules}
    described = fields.get("architectures") or {}
    if not isinstance(described, dict):
        raise ValueError("architectures: expected a map of lists of modules")
    architectures = {str(name): list_of_strings(its, f"architectures.{name}") for name, its in described.items()}
    for name, its in architectures.items():
        for module in its:
            if module not in modules:
                raise ValueError(f"architectures.{name}: unknown module {module!r}: {nearest(module, modules)}")
    return Layout(
        name=str(fields["name"]),
        about=str(fields.get("about", "")),
        experts=experts,
        top=top,
        blocks=blocks,
        rules=rules,
        shared=list_of_strings(fields.get("shared"), "shared"),
        architectures=architectures,
    )


def _rule(name: str, entry: Any, blocks: str, into: str, slots: Mapping[str, Any], experts: Mapping[str, str]) -> Rule:
    at = f"slots.{name}"
    fields = checked_map(entry, at, required=("from", "kind"), optional=("gram", "same_input_as"))
    if fields["kind"] not in KINDS:
        raise ValueError(f"{at}.kind: unknown kind {fields['kind']!r}: {nearest(str(fields['kind']), KINDS)}")
    if "{" in name or "}" in name:
        raise ValueError(f"{at}: the name of a slot has no placeholders")
    sources = {
        expert: (blocks + source).replace("{expert}", experts[expert])
        for expert, source in _sources(fields["from"], f"{at}.from", blocks, experts).items()
    }
    shared_input = str(fields.get("same_input_as", ""))
    if shared_input and shared_input not in slots:
        raise ValueError(f"{at}.same_input_as: unknown slot {shared_input!r}: {nearest(shared_input, slots)}")
    gram = blocks + template(fields["gram"], f"{at}.gram", "expert") if "gram" in fields else ""
    return Rule(name, into + name, sources, fields["kind"], gram, shared_input)


def _sources(entry: Any, at: str, blocks: str, experts: Mapping[str, str]) -> dict[str, str]:
    """Template of each expert: one text with {expert} for all of them, or a map with a text for each."""
    if not isinstance(entry, dict):
        source = template(entry, at, "expert")
        if "{expert}" not in blocks + source:
            raise ValueError(f"{at}: needs {{expert}}")
        return dict.fromkeys(experts, source)
    for expert in entry:
        if expert not in experts:
            raise ValueError(f"{at}: unknown expert {expert!r}: {nearest(str(expert), experts)}")
    for expert in experts:
        if expert not in entry:
            raise ValueError(f"{at}: expert {expert!r} is missing")
    return {str(expert): template(source, f"{at}.{expert}", "expert") for expert, source in entry.items()}
