"""What every merge method is: a frozen dataclass of options that turns a group into one array."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from vlmerge_cli.errors import UsageError, nearest
from vlmerge_cli.layouts.layout import Slot
from vlmerge_cli.methods import METHODS, RUNNING

#: What a Gram counts for: as many tokens as it has, or as one (see RegMean).
WEIGHTS = ("tokens", "equal")

Array: TypeAlias = Any  # a numpy array or a torch tensor: methods use only operators that both have


@dataclass(frozen=True)
class Group:
    """The tensors of one slot.

    ``experts`` maps the layout's names (those that exist, in its order) to arrays of one shape in float32 or float64,
    and ``top`` are the names of those that only the top layers have; ``base`` is W⁰ in the same form where the method
    asked for it; ``grams`` maps each expert to XᵀX of its input, (in, in) or its packed upper triangle, in float64,
    where the method asked for them, and ``tokens`` to the number of tokens in that sum, where it asked for that.
    """

    slot: Slot
    experts: Mapping[str, Array]
    base: Array | None = None
    grams: Mapping[str, Array] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    top: tuple[str, ...] = ()


class Option(NamedTuple):
    """One setting of a method, as the command line shows it."""

    name: str
    flag: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()

    def parse(self, given: Any) -> Any:
        """What was typed where a number or a word may stand. Raises UsageError."""
        if not isinstance(given, str) or self.kind is not float or given in self.choices:
            return given
        try:
            return float(given)
        except ValueError:
            raise UsageError(f"{self.flag} {given}", fix=f"a number, or {' or '.join(self.choices)}") from None


@dataclass(frozen=True)
class Method:
    """A method is called with a Group of two or more experts and returns one new array of their shape.

    It never changes its inputs and reads nothing else. A layer with a single expert is not its business: that
    expert is copied.
    """

    name: ClassVar[str]
    needs_base: ClassVar[bool] = False

    def elementwise(self, slot: Slot) -> bool:
        """Whether elements of this slot are merged one by one, so that the engine may hand out chunks."""
        return True

    def problems(self, experts: Mapping[int, tuple[str, ...]], top: tuple[str, ...]) -> list[str]:
        """What the settings cannot mean for a checkpoint with these experts in each layer, as sentences."""
        return []

    def shares(self, experts: Sequence[str], top: Sequence[str], slot: Slot) -> dict[str, float]:
        """Each expert's weight in the merge of a slot that has these, adding up to 1; empty: no fixed weights."""
        return {}

    def needs_grams(self, slot: Slot) -> bool:
        """Whether this slot's group must hold the experts' Grams."""
        return False

    def needs_tokens(self, slot: Slot) -> bool:
        """Whether the token counts of the Grams are needed too."""
        return False

    def examines(self, slot: Slot) -> bool:
        """Whether this slot is to be seen before anything is merged; the engine then calls ``examine``."""
        return False

    def examine(self, group: Group) -> Any:
        """What the method wants to know of a slot, for ``settle``."""
        raise NotImplementedError

    def settle(self, found: Mapping[Slot, Any], slots: Iterable[Slot]) -> Self:
        """A method that is ready to merge ``slots``, given what ``examine`` found in some of them."""
        return self

    def learnt(self) -> dict[str, Any]:
        """What ``settle`` decided, as JSON values, for recipes and summaries."""
        return {}

    def __call__(self, group: Group) -> Array:
        raise NotImplementedError

    def __post_init__(self) -> None:
        for entry in _option_fields(self):
            value, low, high = getattr(self, entry.name), entry.metadata["low"], entry.metadata["high"]
            choices = entry.metadata["choices"]
            if isinstance(value, str) and choices and value not in choices:
                raise UsageError(f"{entry.metadata['flag']} {value}", fix=nearest(value, choices))
            if isinstance(value, bool) or not isinstance(value, float | int):
                continue
            if not (low <= value <= high and math.isfinite(value)):
                bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
                if math.isinf(low):
                    bounds = "that is finite"
                raise UsageError(f"{entry.metadata['flag']} is {value:g}, expected a number {bounds}")

    @classmethod
    def options(cls) -> list[Option]:
        """The command line's options of this method, in the order of its fields."""
        return [
            Option(f.name, f.metadata["flag"], f.metadata["kind"], f.default, f.metadata["help"], f.metadata["choices"])
            for f in _option_fields(cls)
        ]

    def settings(self) -> dict[str, Any]:
        """Options as they are set, by flag name without dashes, for recipes and records; an empty one is left out."""
        found = {f.metadata["flag"].lstrip("-"): getattr(self, f.name) for f in _option_fields(self)}
        return {name: value for name, value in found.items() if value != ""}


def option(
    default: Any,
    flag: str,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    kind: type = float,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is an option of the command line.

    ``choices`` are the words it may be; with them, ``kind`` float means a number or one of those words.
    """
    facts = {"help": help, "flag": flag, "low": low, "high": high, "kind": kind, "choices": choices}
    return field(default=default, metadata=facts)


def _option_fields(method: Method | type[Method]) -> list[dataclasses.Field[Any]]:
    """Fields that are options; a method may have others, which it sets itself."""
    return [entry for entry in dataclasses.fields(method) if "flag" in entry.metadata]


def method_class(name: str) -> type[Method]:
    """The class of a method by name. Raises UsageError with the nearest name."""
    known = METHODS | RUNNING
    if name not in known:
        raise UsageError(f"no method {name!r}", fix=nearest(name, known))
    module, _, attribute = known[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def make(name: str, given: Mapping[str, Any]) -> Method:
    """A method with the options that were given (``None`` means not given).

    Raises UsageError for an option that belongs to another method.
    """
    kind = method_class(name)
    own = {option.name: option for option in kind.options()}
    chosen = {key: value for key, value in given.items() if value is not None}
    for key in chosen:
        if key not in own:
            flags = ", ".join(option.flag for option in own.values())
            other = next((n for n in METHODS | RUNNING for o in method_class(n).options() if o.name == key), "")
            flag = next(o.flag for o in method_class(other).options() if o.name == key) if other else key
            raise UsageError(f"{flag} is an option of {other or 'no method'}", fix=f"{name} has {flags}")
    return kind(**{key: own[key].parse(value) for key, value in chosen.items()})


def described(name: str, settings: Mapping[str, Any]) -> str:
    """Settings in short: ``alpha 0.5, vl-ratio 0.333``; switches and words are left out at their defaults."""
    options = method_class(name).options() if name in METHODS | RUNNING else []
    usual = {option.flag.lstrip("-"): option.default for option in options if not isinstance(option.default, float)}
    shown = {key: value for key, value in settings.items() if key not in usual or value != usual[key]}
    numbers = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in shown.items()}
    return ", ".join(f"{key} {value}" for key, value in numbers.items())
