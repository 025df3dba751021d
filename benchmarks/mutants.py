"""``make mutants``: small faults put into the code, one at a time: does a test fail?

    python -m benchmarks.mutants --sample 320 --seed 1 [--room tasks]

The faults are those of mutmut, and three more: a call or an error left out, a condition turned round. Not counted as
behaviour: docstrings, annotations, imports, decorators, ``__all__``, what only type checkers read, texts with a space,
the wording of errors and of what the log says. Everything happens in a copy of the repository. A sample is the mutants
with the smallest digests under the seed, so that a change of one file leaves the rest of it as it was. mutants.toml has
the settings, and the mutants that are equivalent.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import coverage
import libcst as cst
import pytest
import torch  # noqa: F401  a forked child has it already
from mutmut.mutation.mutators import mutation_operators

from benchmarks import harness
from vlmerge_cli import console

ROOT = Path(__file__).parent.parent
COPY = harness.WORK / "mutants" / "copy"
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PYTEST = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
EMPTY = cst.Module([])
TALKS = ("console.", "warnings.", "log.")


@dataclass(frozen=True)
class Mutant:
    """A file of the package with one fault; ``line`` is the first that changed, ``was`` and ``now`` all that did."""

    room: str
    file: str
    line: int
    was: str
    now: str
    code: str

    def __str__(self) -> str:
        return f"{self.room} {self.file}:{self.line}\n  - {self.was}\n  + {self.now}"


def left_out(node: cst.Expr | cst.Raise) -> Iterator[cst.Pass]:
    if isinstance(node, cst.Raise) or isinstance(node.value, cst.Call):
        yield cst.Pass()


def turned_round(node: cst.If) -> Iterator[cst.If]:
    inside = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inside))


OPERATORS = [*mutation_operators, (cst.Expr, left_out), (cst.Raise, left_out), (cst.If, turned_round)]


class Faults(cst.CSTVisitor):
    """Every fault of a module, as pairs of a node and what takes its place."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        text = EMPTY.code_for_node(node) if isinstance(node, cst.Expr | cst.If | cst.Assign | cst.Call) else ""
        words = isinstance(node, cst.SimpleString) and (" " in node.value or node.value.startswith('"""'))
        docstring = isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom) or words or docstring:
            return False
        if text.strip().startswith((*TALKS, "if TYPE_CHECKING", "__all__", "cast(", "TypeVar(")):
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.found += [(node, mutated) for mutated in operator(node)]
        return not isinstance(node, cst.Raise)


def made(room: str, path: Path, module: cst.Module, node: cst.CSTNode, mutated: cst.CSTNode) -> Mutant | None:
    """Nothing where the fault is no Python, or changes nothing."""
    code = cst.ensure_type(module.deep_replace(node, mutated), cst.Module).code
    try:
        ast.parse(code)
    except SyntaxError:
        return None
    lines, changed = module.code.splitlines(), code.splitlines()
    blocks = [b for b in difflib.SequenceMatcher(a=lines, b=changed, autojunk=False).get_opcodes() if b[0] != "equal"]
    if not blocks:
        return None
    first, last = blocks[0], blocks[-1]
    was, now = " ".join(lines[first[1] : last[2]]), " ".join(changed[first[3] : last[4]])
    where = str(path.relative_to(ROOT))
    return Mutant(room, where, first[1] + 1, " ".join(was.split()), " ".join(now.split()), code)


def sample(size: int, seed: int, room: str | None) -> list[Mutant]:
    """The mutants with the smallest digests of the seed, the file, the node and what takes its place."""
    ranked: list[tuple[str, Callable[[], Mutant | None]]] = []
    for name, its in SETTINGS["rooms"].items():
        for path in (p for one in its["files"] for p in files_of(ROOT / "vlmerge_cli" / one)):
            module, faults, seen = cst.parse_module(path.read_text(encoding="utf-8")), Faults(), Counter[str]()
            module.visit(faults)
            for node, mutated in faults.found:
                text = f"{path.relative_to(ROOT)} {EMPTY.code_for_node(node)} {EMPTY.code_for_node(mutated)}"
                seen[text] += 1
                digest = hashlib.sha256(f"{seed} {text} {seen[text]}".encode()).hexdigest()
                ranked.append((digest, partial(made, name, path, module, node, mutated)))
    ranked.sort(key=itemgetter(0))
    drawn = list(islice((mutant for _, make in ranked if (mutant := make())), size))
    return [mutant for mutant in drawn if room in (None, mutant.room)]


def files_of(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


class Watch:
    """A pytest plugin: which test runs which lines, and how many seconds each test takes."""

    def __init__(self) -> None:
        self.coverage = coverage.Coverage(data_file=None, source=["vlmerge_cli"], config_file=False)
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        started = time.perf_counter()
        yield
        self.seconds[item.nodeid] = time.perf_counter() - started
        self.coverage.switch_context("")

    def save(self, path: Path) -> None:
        data = self.coverage.get_data()
        lines = {str(Path(f).relative_to(COPY)): data.contexts_by_lineno(f) for f in data.measured_files()}
        path.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))


def child(arguments: Sequence[str], watched: Path | None = None, limit: float = 3600) -> int:
    """Exit code of pytest in a forked process that has not imported the package; 124 past the limit."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(COPY)
        output = os.open(COPY.parent / "last-output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        for name in [name for name in sys.modules if name.split(".")[0] in ("vlmerge_cli", "benchmarks", "tests")]:
            del sys.modules[name]
        sys.path.insert(0, str(COPY))
        sys.dont_write_bytecode = watched is None
        watch = Watch() if watched else None
        if watch:
            watch.coverage.start()
        code = int(pytest.main([*PYTEST, *arguments], plugins=[watch] if watch else []))
        if watch and watched:
            watch.coverage.stop()
            watch.save(watched)
        os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def watched(room: str) -> dict[str, Any]:
    """What the room's tests run, with the code as it is; all must pass. Kept until a file changes."""
    text = b"".join(p.read_bytes() for top in ("vlmerge_cli", "tests") for p in files_of(COPY / top))
    kept = COPY.parent / f"{room}-{hashlib.sha256(text).hexdigest()[:16]}.json"
    if not kept.exists():
        tests = [f"tests/{name}" for name in SETTINGS["rooms"][room]["tests"]]
        if child([*tests, *(f"--ignore={name}" for name in SETTINGS["without"])], kept) != 0:
            kept.unlink(missing_ok=True)
            raise SystemExit(f"{room}: its tests fail as they are: see {COPY.parent / 'last-output.txt'}")
    return dict(json.loads(kept.read_text()))


def tests_for(mutant: Mutant, seen: dict[str, Any]) -> list[str]:
    """Tests that run the line, fast ones first; then the room's others; as many as the settings have seconds for."""
    running = set(seen["lines"].get(mutant.file, {}).get(str(mutant.line), ()))
    chosen, left = [], SETTINGS["most_tests"]
    for test in sorted(seen["seconds"], key=lambda test: (test not in running, seen["seconds"][test])):
        left -= seen["seconds"][test]
        if left < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def survives(mutant: Mutant, seen: dict[str, Any]) -> bool:
    path = COPY / mutant.file
    original = path.read_text(encoding="utf-8")
    compiled = list(path.parent.glob(f"__pycache__/{path.stem}.*"))
    for file in compiled:
        file.unlink()
    path.write_text(mutant.code, encoding="utf-8")
    try:
        return child(tests_for(mutant, seen), limit=SETTINGS["limit"]) == 0
    finally:
        path.write_text(original, encoding="utf-8")


def main(words: Iterable[str]) -> int:
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("--sample", type=int, default=320)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--room", choices=SETTINGS["rooms"])
    chosen = parser.parse_args(list(words))
    os.nice(15)
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(COPY))
    shutil.rmtree(COPY, ignore_errors=True)
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", "*.egg-info")
    shutil.copytree(ROOT, COPY, ignore=ignored)
    same = {(each["file"], each["was"], each["now"]) for each in SETTINGS["equivalent"]}
    counts: dict[str, Counter[str]] = {}
    for mutant in sorted(sample(chosen.sample, chosen.seed, chosen.room), key=lambda m: (m.room, m.file, m.line)):
        count = counts.setdefault(mutant.room, Counter())
        if (mutant.file, mutant.was, mutant.now) in same:
            count["equivalent"] += 1
        elif survives(mutant, watched(mutant.room)):
            count["survived"] += 1
            console.say(f"SURVIVED {mutant}")
        else:
            count["killed"] += 1
    for room, count in counts.items():
        console.say(f"{room}: {count['killed']} killed, {count['survived']} survived, {count['equivalent']} equivalent")
    if chosen.room is None:
        rows = {
            r: {"mutants": c.total(), **{k: c[k] for k in ("killed", "survived", "equivalent")}}
            for r, c in counts.items()
        }
        harness.save("mutants", rows, {"seed": chosen.seed})
    total = sum(counts.values(), Counter())
    share = total["killed"] / max(total["killed"] + total["survived"], 1)
    console.say(f"{share:.1%} of {total['killed'] + total['survived']} mutants that are not equivalent die")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
