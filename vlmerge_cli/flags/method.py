"""Command-line options that merge methods bring along."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from vlmerge_cli.methods import METHODS, RUNNING
from vlmerge_cli.methods.method import method_class

Function = TypeVar("Function", bound=Callable[..., Any])


def with_method_options(function: Function, *, ranges: bool = False, running: bool = False) -> Function:
    """Add every option of every method, each in a panel of its method; they arrive as keyword arguments.

    With ``ranges`` a number may also be several: they arrive as the text that was typed. ``running``: also those of
    methods that run the model.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added: dict[str, inspect.Parameter] = {}
    methods = METHODS | RUNNING if running else METHODS
    for name in methods:
        for option in method_class(name).options():
            if option.name in added:
                continue
            owners = [n for n in methods for other in method_class(n).options() if other.name == option.name]
            words = "|".join(option.choices)
            numeric = option.kind is float
            declared = typer.Option(
                option.flag,
                help=option.help,
                metavar=(f"NUMBER|{words}" if numeric else words) if words else None,
                rich_help_panel=f"Options of {', '.join(owners)}",
                show_default=f"{option.default:.3g}" if numeric else option.default if words else False,
            )
            kind: Any = str if words or (ranges and numeric) else option.kind
            added[option.name] = inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, declared],
            )
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *added.values()]
    )
    return function
