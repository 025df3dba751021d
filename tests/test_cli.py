from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT, command, environment, fails, ok, run, run_python, save, tiny, vlmerge
from vlmerge_cli import __version__, cli
from vlmerge_cli.errors import VlmergeError
from vlmerge_cli.methods import METHODS
from vlmerge_cli.methods.method import method_class


def test_help_lists_every_command() -> None:
    out = ok("--help").out
    for name, about in cli.COMMANDS.items():
        assert name in out
        assert about[:30] in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_file_and_help(name: str) -> None:
    assert (ROOT / "vlmerge_cli" / "commands" / f"{name}.py").is_file()
    assert "Usage: " in ok(name, "--help").out
    assert ok(name, "-h").out == ok(name, "--help").out


def test_every_option_of_every_method_is_an_option_of_merge() -> None:
    out = ok("merge", "--help").out
    for name in METHODS:
        for option in method_class(name).options():
            assert option.flag in out


def test_version() -> None:
    assert ok("--version").out.strip() == f"vlmerge {__version__}"


@pytest.mark.parametrize(
    "arguments", [("mrege",), ("merge",), ("merge", "a", "b"), ("--nope",), ("inspect",)], ids=" ".join
)
def test_usage_errors_end_with_2(arguments: tuple[str, ...]) -> None:
    result = vlmerge(*arguments)
    assert result.code == 2
    assert "error:" in result.err.lower()


def test_a_misspelt_command_has_the_nearest() -> None:
    assert "merge" in fails(2, "mrege")


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    missing = str(tmp_path / "x.safetensors")
    done = run("--debug", "inspect", missing)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert f"error: no such checkpoint: {missing}" in done.stderr
    done = run("inspect", missing)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (VlmergeError("bad", where="x", fix="mend"), 1, "error: bad\n  in x; mend"),
        (OSError(5, "Input/output error", "x"), 1, "error: OSError: [Errno 5] Input/output error: 'x'"),
        (MemoryError("much"), 1, "error: MemoryError: much"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_where_errors_end(error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("vlmerge_cli.api.open_checkpoint", refuse)
    result = vlmerge("inspect", "x")
    assert result.code == code
    assert result.err.strip() == words


def test_results_on_stdout_messages_on_stderr(ckpt: Path) -> None:
    result = ok("merge", ckpt, "--json")
    json.loads(result.out)
    assert result.err == ""
    result = vlmerge("merge", ckpt, "--json")
    assert result.out == ""
    assert result.err != ""


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """``vlmerge inspect --keys | head -1`` ends quietly."""
    source = save(tmp_path / "c.safetensors", tiny(layers=400))
    process = subprocess.Popen(
        command("inspect", source, "--keys"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0, err
    assert err == ""
    process.stderr.close()


def test_the_module_and_the_console_script_are_one() -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"vlmerge": "vlmerge_cli.__main__:start"}
    assert run("--version").stdout.strip() == f"vlmerge {__version__}"


@pytest.mark.parametrize(("module", "fix"), [("pydantic", "vlmerge[train]"), ("PIL", "vlmerge[train]")])
def test_a_package_of_an_extra_that_is_missing(
    module: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.modules[sys.argv.pop(1)] = None; from vlmerge_cli.cli import main; main()"
    work = ["pretrain", "--model", "micro", "--out", tmp_path / "run", "--steps", "2", "--seed-steps", "1"]
    done = run_python(code, module, *work, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert fix in done.stderr.splitlines()[-1]
    assert "mistake" not in done.stderr
