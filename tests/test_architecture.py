"""The floors: a file imports lower floors and files of its own room; nowhere a circle.

Imports inside functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vlmerge_cli"
FLOORS = [
    {"errors", "version", "result_base"},
    {"records", "ranks"},
    {"devices", "outputs"},
    {"console"},
    {"checkpoint", "layouts"},
    {"methods", "metrics"},
    {"engine", "model", "data"},
    {"weights"},
    {"steps"},
    {"grams", "distances", "tasks"},
    {"merging"},
    {"training", "layerwise"},
    {"study", "reports", "inference", "path_diagnosis"},
    {"api"},
    {"flags", "__init__"},
    {"commands"},
    {"cli", "__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FORBIDDEN = {("training", "merging")}
# Pairs on one floor of which the first may see the second.
ALLOWED = {
    ("layouts", "checkpoint"),
    ("__main__", "cli"),
    ("data", "model"),
}
# Rooms that are a table of like things: their files are named for the thing, as is the room's file that does it.
TABLES = {"commands", "flags", "tasks", "data/readers", "reports/pages"}
# Lines that one reads in one sitting, and on one screen.
MOST_OF_A_FILE, MOST_OF_A_FUNCTION = 300, 60
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[Path]:
    """The files of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {file for name in names if name.split(".")[0] == "vlmerge_cli" and (file := file_of(name))}
    return found - {path}


def file_of(name: str) -> Path | None:
    """The file that a dotted name is in: the longest part of it that is a module."""
    pieces = name.split(".")[1:]
    for size in range(len(pieces), -1, -1):
        place = PACKAGE.joinpath(*pieces[:size])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if size and file.exists():
                return file
    return PACKAGE / "__init__.py"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    here = part(path)
    assert here in FLOOR, f"{here} is on no floor: say where it belongs in FLOORS"
    for there in {part(file) for file in imported(path)} - {here}:
        lower = FLOOR[there] < FLOOR[here] and (here, there) not in FORBIDDEN
        assert lower or (here, there) in ALLOWED, f"{path.name} ({here}) imports {there}"


def test_no_files_import_each_other() -> None:
    found = {frozenset(str(path.relative_to(PACKAGE)) for path in circle) for circle in circles()}
    assert not found


def circles() -> list[set[Path]]:
    """Every set of files each of which leads to all others."""
    graph = {path: imported(path) for path in FILES}
    reached = {path: reachable(path, graph) for path in FILES}
    rings = {path: frozenset(other for other in reached[path] if path in reached[other]) for path in FILES}
    return [set(ring) for ring in set(rings.values()) if ring]


def reachable(start: Path, graph: dict[Path, set[Path]]) -> set[Path]:
    """All files that a file leads to; itself only through a circle."""
    found: set[Path] = set()
    waiting = list(graph[start])
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += graph[path]
    return found


def test_no_file_name_stands_for_two_things() -> None:
    rooms: dict[str, list[str]] = {}
    for path in FILES:
        room = str(path.parent.relative_to(PACKAGE))
        if path.name != "__init__.py" and room not in TABLES:
            rooms.setdefault(path.name, []).append(room)
    twice = {name: its for name, its in rooms.items() if len(its) > 1}
    assert not twice, f"name these for what differs: {twice}"


def test_files_can_be_read_in_one_sitting() -> None:
    sizes = {str(p.relative_to(PACKAGE)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    long = {name: size for name, size in sizes.items() if size > MOST_OF_A_FILE}
    assert not long, f"split these: {long}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_fit_a_screen(path: Path) -> None:
    """The typed options of a command, which are its signature, do not count."""
    name = str(path.relative_to(PACKAGE))
    long = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0].lineno if part(path) == "commands" else node.lineno
            size = (node.end_lineno or first) - first + 1
            if size > MOST_OF_A_FUNCTION:
                long[node.name] = size
    assert not long, f"{name}: split these: {long}"
