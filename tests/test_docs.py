"""The README: every command in it runs, every command and option it names exists, its tree is the tree.

``python tests/test_docs.py`` writes the tree anew.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# Folders as they depend on each other, lowest first; then the files at the top.
FOLDERS = ["checkpoint", "layouts", "methods", "metrics", "model", "data", "merging", "tasks", "training"]
FOLDERS += ["study", "reports", "commands"]


def purpose(path: Path) -> str:
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def tree() -> str:
    package = ROOT / "vlmerge_cli"
    lines = ["```", "vlmerge_cli/"]
    low = ["errors.py", "records.py", "ranks.py", "devices.py", "console.py"]
    lines += [f"  {name:<18} {purpose(package / name)}" for name in low]
    for folder in FOLDERS:
        files = sorted(p for p in (package / folder).glob("*.py") if p.name != "__init__.py")
        inner = sorted(p.parent for p in (package / folder).glob("*/__init__.py"))
        if files:
            lines.append(f"  {folder + '/':<18} {purpose(package / folder / '__init__.py')}")
            lines += [f"    {p.name:<16} {purpose(p)}" for p in files]
            lines += [f"    {p.name + '/':<16} {purpose(p / '__init__.py')}" for p in inner]
    lines.append(f"  {'cli.py':<18} {purpose(package / 'cli.py')}")
    lines += [
        f"{'tests/':<20} the same tree; test_architecture.py holds the floors, test_docs.py this page",
        f"{'fixtures/':<20} small inputs and their seeded builder; goldens/ is what the published code computes",
        f"{'benchmarks/':<20} what is measured, against what, and the last results",
        "```",
    ]
    return "\n".join(lines)


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new user's folder: a checkpoint, its Grams, its seed."""
    for name, source in (("ckpt", "specific"), ("ckpt.grams", "specific.grams"), ("seed", "seed")):
        shutil.copy(ROOT / "fixtures" / "tiny" / f"{source}.safetensors", tmp_path / f"{name}.safetensors")
    return tmp_path


def test_every_command_of_the_readme_runs(folder: Path) -> None:
    """In the README's order: later ones use what earlier ones made."""
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "VLMERGE_CACHE": str(folder / "cache")}
    for command in commands():
        words = shlex.split(command)
        assert words[0] == "vlmerge"
        argv = [sys.executable, "-m", "vlmerge_cli", *words[1:]]
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip(), command


def test_every_command_is_in_the_readme() -> None:
    from vlmerge_cli.cli import COMMANDS

    text = README.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`vlmerge {name}" in text, f"the table of commands lacks {name}"


def test_the_tree_is_the_tree() -> None:
    assert tree() in README.read_text(encoding="utf-8"), "run: python tests/test_docs.py"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    new = f"<!-- tree -->\n{tree()}\n<!-- /tree -->"
    README.write_text(re.sub(r"<!-- tree -->.*<!-- /tree -->", lambda _: new, text, flags=re.DOTALL), encoding="utf-8")
