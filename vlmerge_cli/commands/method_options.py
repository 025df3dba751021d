"""Command-line options that merge methods bring along."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from vlmerge_cli.methods import METHODS
from vlmerge_cli.methods.method import method_class

Function = TypeVar("Function", bound=Callable[..., Any])


def with_method_options(function: Function, *, ranges: bool = False) -> Function:
    """Add every option of every method, each in a panel of its method; they arrive as keyword arguments.

    With ``ranges`` a number may also be several: they arrive as the text that was typed.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added = []
    for name in METHODS:
        for option in method_class(name).options():
            default = f"{option.default:.3g}" if option.kind is float else False
            declared = typer.Option(
                option.flag, help=option.help, rich_help_panel=f"Options of {name}", show_default=default
            )
            typed: Any = str if ranges and option.kind is float else option.kind
            kind = Annotated[typed | None, declared]
            added.append(inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    return function
