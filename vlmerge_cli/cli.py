"""The command line: a table of commands, each loaded when it is called, and the one place where errors end."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vlmerge_cli import console, ranks
from vlmerge_cli.errors import UsageError, VlmergeError, nearest, one_line
from vlmerge_cli.version import __version__

#: name -> one line of help; the command is ``command`` (or the Typer ``app``) in vlmerge_cli/commands/NAME.py.
COMMANDS = {
    "inspect": "What is inside a checkpoint: layout, experts, sizes. Reads headers only.",
    "doctor": "What paths are, whether they are whole, and what commands would do with them.",
    "merge": "Merge the experts of a checkpoint into one modality-agnostic transformer.",
    "grams": "Collect the Gram matrices that RegMean needs; add and show files of them.",
    "distance": "How far the experts are apart: L2, cosine, SSD, TSSD. Will they merge?",
    "pretrain": "Train a vision-language model whose experts can be merged.",
    "distill": "Train a merge to act like the checkpoint it is made of; no labels, minutes.",
    "finetune": "Train a checkpoint for one task; it may be merged on the way in.",
    "evaluate": "Score a checkpoint on a benchmark, zero-shot or fine-tuned.",
    "embed": "Vectors of pictures and texts, as a safetensors file.",
    "search": "Find pictures in a folder by what they show.",
    "sweep": "Many merges in one pass over a checkpoint, each scored.",
    "study": "The paper's experiment from start to end, at a size that fits the machine.",
    "report": "Write a run's records as one HTML page, tables and figures.",
    "convert": "Turn PyTorch files (.ckpt .pt .pth .bin) into safetensors, without running what is in them.",
    "layouts": "List, show and check the naming schemes that vlmerge knows.",
}

#: Commands that leave nothing to exit handlers; when they are done, so is the process. (So is one of several ranks.)
BRIEF = {"inspect", "merge", "distance"}


class LazyGroup(TyperGroup):
    """Knows its commands by name and help; imports a command's module only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            raise UsageError(f"no command {args[0]!r}", fix=nearest(args[0], COMMANDS))
        return args[0], load(args[0]), args[1:]

    def invoke(self, ctx: Any) -> Any:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            ranks.start()
            if ranks.is_left_over():
                console.warn(
                    f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but torchrun did not start this: it runs alone"
                )
            found = super().invoke(ctx)
            ranks.stop()  # after an error others may still wait for this rank: it ends without taking leave
            return found
        except VlmergeError as error:
            if ranks.is_main() or not error.everywhere:
                _say_error(str(error), ctx.params["debug"])
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            console.complain("interrupted")
            raise SystemExit(130) from None
        except BrokenPipeError:  # the reader of a pipe has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except (OSError, MemoryError) as error:
            _say_error(f"{type(error).__name__}: {one_line(str(error))}", ctx.params["debug"])
            raise SystemExit(1) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("click", "typer"):
                raise  # the command line's own ways to end
            what = (
                f"{type(error).__name__}: {one_line(str(error))}\n  a mistake in vlmerge: vlmerge --debug shows where"
            )
            _say_error(_missing_package(error) or ranks.peer_ended(error) or what, ctx.params["debug"])
            raise SystemExit(1) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _missing_package(error: Exception) -> str:
    """What to install, where a command needs a package of an extra that is not there; empty for another error."""
    module = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module in ("", "vlmerge_cli"):
        return ""
    from importlib import metadata

    package = {"PIL": "pillow", "sklearn": "scikit-learn"}.get(module, module)
    fix = f"pip install {package}"
    with suppress(metadata.PackageNotFoundError):
        for needed in metadata.requires("vlmerge") or ():
            name, _, extra = needed.partition("; extra == ")
            if re.match(r"[\w-]+", name)[0] == package and extra.strip('"') not in ("", "dev"):  # type: ignore[index]
                fix = f"pip install 'vlmerge[{extra.strip(chr(34))}]'"
    return f"this needs the package {package}, which is not installed\n  {fix}"


def load(name: str) -> Any:
    """The command of a module, ready to run."""
    module = import_module(f"vlmerge_cli.commands.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(module.command)
    found = typer.main.get_command(app)
    found.name = name
    if not gc.isenabled():  # the start is over; what it made stays for good
        gc.freeze()
        gc.enable()
    return found


app = typer.Typer(
    name="vlmerge",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        console.show(f"vlmerge {__version__}")
        raise typer.Exit


@app.callback()
def vlmerge(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Merge the vision, language and cross-modal transformers of one checkpoint into a single transformer."""


def main() -> None:
    console.open_streams()
    try:
        app()
    except SystemExit as end:
        code = end.code
        try:
            console.close_streams()
        except (VlmergeError, BrokenPipeError) as error:
            if isinstance(error, VlmergeError):
                _say_error(str(error), debug=False)
                code = code or error.exit_code
        is_brief = not BRIEF.isdisjoint(sys.argv[1:3]) or ranks.world_size() > 1
        if is_brief and isinstance(code, int):
            os._exit(code)  # taking modules apart one by one would take as long as planning a merge
        raise SystemExit(code) from None
    except (VlmergeError, OSError) as error:  # outside of a command: its help, the version
        _say_error(str(console.no_output(error) if isinstance(error, OSError) else error), debug=False)
        raise SystemExit(1) from None


def _say_error(message: str, debug: bool) -> None:
    """What went wrong, on stderr; with ``debug``, where it came from; with other ranks, on which."""
    if debug:
        import traceback

        traceback.print_exc()
    where = "" if ranks.is_main() else f" (rank {ranks.rank()})"
    console.complain(f"error{where}: {message}")
