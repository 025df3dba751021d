"""The floors: a folder imports lower floors and itself, imports inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vlmerge_cli"
FLOORS = [
    {"errors", "__init__"},
    {"records", "ranks"},
    {"devices"},
    {"console"},
    {"checkpoint", "layouts"},
    {"methods", "metrics"},
    {"model", "data"},
    {"merging", "tasks"},
    {"training"},
    {"study", "reports"},
    {"commands"},
    {"cli", "__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FORBIDDEN = {("training", "merging")}
# Pairs on one floor of which the first may see the second.
ALLOWED = {("layouts", "checkpoint"), ("__main__", "cli"), ("data", "model")}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "vlmerge_cli" and len(pieces) > 1:
                found.add(pieces[1] if pieces[1] in FLOOR else "__init__")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    here = part(path)
    assert here in FLOOR, f"{here} is on no floor: say where it belongs in FLOORS"
    for there in imported_parts(path) - {here}:
        lower = FLOOR[there] < FLOOR[here] and (here, there) not in FORBIDDEN
        assert lower or (here, there) in ALLOWED, f"{path.name} ({here}) imports {there}"


def test_files_can_be_read_in_one_sitting() -> None:
    long = {
        str(p.relative_to(PACKAGE)): n
        for p in PACKAGE.rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert not long, f"split these: {long}"
