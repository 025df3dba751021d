"""README.md and docs/: every command in them runs, every option and link they name exists, their tree is the tree.

``python -m tests.test_docs`` writes the tree anew.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import vlmerge_cli
from tests import helpers
from tests.test_architecture import FLOORS
from vlmerge_cli.cli import COMMANDS, load

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CODE = ROOT / "docs" / "code.md"
#: Commands that make what other pages use, too: run once.
TRAINING = "vlmerge pretrain --model micro --steps 4 --out runs/tiny --set saving.validate_batches=1"


def purpose(path: Path) -> str:
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ""
    return " ".join((text or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def tree() -> str:
    """The package, lowest floor first, each file with what it is for."""
    package = ROOT / "vlmerge_cli"
    parts = [package / name for floor in FLOORS for name in sorted(floor) if not name.startswith("__")]
    lines = ["```", "vlmerge_cli/"]
    for part in parts:
        lines += branch(part, 2) if part.is_dir() else [line(part.with_suffix(".py"), 2)]
    lines += [
        f"{'tests/':<22} the same tree; test_architecture.py holds the floors, test_docs.py these pages",
        f"{'docs/':<22} these pages",
        f"{'fixtures/':<22} small inputs and their seeded builder; goldens/ is what the published code computes",
        f"{'benchmarks/':<22} what is measured, against what, and the last results",
        "```",
    ]
    return "\n".join(lines)


def branch(folder: Path, depth: int) -> Iterator[str]:
    """A folder's line and those of what is in it."""
    yield f"{' ' * depth}{folder.name + '/':<{22 - depth}} {purpose(folder / '__init__.py')}".rstrip()
    yield from (line(path, depth + 2) for path in sorted(folder.glob("*.py")) if path.name != "__init__.py")
    for inner in sorted(path for path in folder.iterdir() if any(path.glob("*.py"))):
        yield from branch(inner, depth + 2)


def line(path: Path, depth: int) -> str:
    return f"{' ' * depth}{path.name:<{22 - depth}} {purpose(path)}"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """What a reader may type as it stands, in the page's order."""
    return [row[2:] for block in blocks(page, "console") for row in block.splitlines() if row.startswith("$ ")]


# --- every command runs ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/tiny of the pages."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMERGE_CACHE", str(place / "cache"))
        patch.chdir(place)
        helpers.ok(*shlex.split(TRAINING)[1:])
    return place


def put_runs(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """runs/tiny into a user's folder."""
    made = request.getfixturevalue("trained")
    monkeypatch.setenv("VLMERGE_CACHE", str(made / "cache"))
    shutil.copytree(made / "runs", folder / "runs")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new user's folder: a checkpoint, its Grams, its seed, some pictures and texts."""
    for number, color in enumerate(("red", "blue", "green"), 1):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), color).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "texts.txt").write_text("two red circles\na blue square\n", encoding="utf-8")
    for name, source in (("ckpt", "specific"), ("ckpt.grams", "specific.grams"), ("seed", "seed")):
        shutil.copy(ROOT / "fixtures" / "tiny" / f"{source}.safetensors", tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_runs(
    page: Path, folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the page's order: later ones use what earlier ones made."""
    if TRAINING in commands(page):
        put_runs(request, folder, monkeypatch)
    assert "runs/tiny" not in page.read_text(encoding="utf-8") or TRAINING in commands(page)
    for command in commands(page):
        first, *words = shlex.split(command)
        assert first == "vlmerge"
        if command != TRAINING:
            assert helpers.ok(*words).out.strip(), command


@functools.cache
def options(command: str, inner: str = "") -> set[str]:
    """The options of a command; of a group those of one of its commands."""
    found: Any = load(command)
    if hasattr(found, "commands"):
        found = found.commands.get(inner) or found.commands["collect"]
    return {name for option in found.params for name in option.opts} | {"--help", "-h"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_exists(page: Path) -> None:
    """In what is shown and not run, and in the text."""
    text = re.sub(r"```python\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for command in re.findall(r"(?:vlmerge|vlmerge_cli) ([a-z][^`\n#|]*)", "\n".join(re.findall(r"`[^`]+`", text))):
        name, *words = command.split()
        assert name in COMMANDS, f"{page.name}: vlmerge {command}"
        inner = words[0] if words else ""
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in options(name, inner), f"{page.name}: vlmerge {command}"
    everywhere = set().union(*(options(name) for name in COMMANDS)) | {"--debug", "--version", "--nproc-per-node"}
    everywhere |= options("grams", "add") | options("grams", "show")
    for option in re.findall(r"`(--[a-z-]+)", text):
        assert option in everywhere, f"{page.name}: no command has {option}"


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"| `vlmerge {name}" in text, f"the table of commands lacks {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_every_python_example_runs(
    page: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one namespace, in the page's order. (That of docs/grams.md, of a model of one's own, has its own test.)"""
    if page.stem == "grams":
        pytest.skip("tests/grams/test_other_models.py runs it")
    if TRAINING in commands(page):
        put_runs(request, folder, monkeypatch)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    assert capsys.readouterr().out.strip(), "an example shows something"


# --- pages ---


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tree_is_the_tree() -> None:
    assert tree() in CODE.read_text(encoding="utf-8"), "run: python -m tests.test_docs"


def test_every_page_is_in_the_sites_contents() -> None:
    class Loader(yaml.SafeLoader):
        """mkdocs has tags of its own."""

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = str(yaml.load(text, Loader)["nav"])
    readme = README.read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"'{page.name}'" in found, f"mkdocs.yml lacks {page.name}"
        assert page.name in ("index.md",) or f"docs/{page.name}" in readme, f"README.md does not lead to {page.name}"


def test_every_public_name_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in vlmerge_cli.__all__:
        assert re.search(rf"\b{name}\b", text), f"no page says what {name} is"
        assert inspect.getdoc(getattr(vlmerge_cli, name)), f"{name} has no docstring"


def test_the_site_builds(tmp_path: Path) -> None:
    """What ``make docs`` does; a broken link or a page that is left out ends it."""
    pytest.importorskip("mkdocs")
    argv = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site"), "--quiet"]
    done = subprocess.run(argv, cwd=ROOT, env=helpers.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_the_picture_is_that_of_the_records() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import before_after
    from vlmerge_cli import records
    from vlmerge_cli.reports.formats import drawing

    drawn = drawing.files(before_after.figure(before_after.Study(records.read(before_after.RECORDS))))
    said = [re.findall(r">([^<>]*)</text>", text.decode("utf-8")) for text in (
        drawn["before-after.svg"], before_after.PICTURE.read_bytes())]  # fmt: skip
    assert said[0] == said[1], "run: python -m benchmarks.before_after"
    assert {"30.0", "18.4", "16.8", "25.9"} <= {words.strip() for words in said[0]}


# --- CI ---


@pytest.mark.parametrize(("limit", "code"), [("0.9", 0), ("0.000001", 3)])
def test_the_gate_script(limit: str, code: int, folder: Path) -> None:
    (folder / "gate.sh").write_text(marked("gate", "sh"), encoding="utf-8")
    (folder / "vlmerge").write_text(f'#!/bin/sh\nexec {sys.executable} -m vlmerge_cli "$@"\n', encoding="utf-8")
    (folder / "vlmerge").chmod(0o755)
    env = helpers.environment(LIMIT=limit, PATH=f"{folder}:{os.environ['PATH']}")
    argv = ["sh", "gate.sh", "ckpt.safetensors"]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (folder / "merged.safetensors").exists() == (code == 0)
    assert (limit in done.stderr) == (code == 3)


def test_the_workflow_is_yaml_and_runs_the_gate() -> None:
    job = yaml.safe_load(marked("workflow", "yaml"))["jobs"]["merge"]
    assert any("gate.sh" in step.get("run", "") for step in job["steps"])


def marked(name: str, language: str) -> str:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n```{language}\n(.*?)```\n<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"docs/ci.md lacks the {name}"
    return found[1]


if __name__ == "__main__":
    text = CODE.read_text(encoding="utf-8")
    new = f"<!-- tree -->\n{tree()}\n<!-- /tree -->"
    CODE.write_text(re.sub(r"<!-- tree -->.*<!-- /tree -->", lambda _: new, text, flags=re.DOTALL), encoding="utf-8")
