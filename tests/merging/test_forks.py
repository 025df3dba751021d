"""Forked processes that take pieces: what they give, how they end. Each in an interpreter of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import NUMPY, run, run_python, save, tiny

# Runs a worker that the test gives, and says what came of it and whether a process is left.
CHILD = """
import json, os, sys
from vlmerge_cli.errors import CheckpointError, VlmergeError
from vlmerge_cli.merging import forks

HERE, TO_FIRST, TO_OTHERS = os.getpid(), os.pipe(), os.pipe()
advanced, met = [], []

def meet():  # returns when the first process and another have both begun, or the others are dead
    if not met:
        met.append(True)
        if os.getpid() == HERE:
            os.close(TO_FIRST[1])
            os.write(TO_OTHERS[1], b"xx")
            os.read(TO_FIRST[0], 1)
        else:
            os.write(TO_FIRST[1], b"x")
            os.read(TO_OTHERS[0], 1)

{worker}

def outcome():
    try:
        return forks.run(lambda: work, range(100), 3, lambda piece: piece, advanced.append)
    except BaseException as error:
        return [type(error).__name__, str(error)]

assert forks.can_fork()
found = outcome()
try:
    os.waitpid(-1, os.WNOHANG)
    left = True
except ChildProcessError:
    left = False
print(json.dumps({{"found": found, "left": left, "done": sum(advanced)}}))
"""


def outcome(worker: str) -> Any:
    done = run_python(CHILD.format(worker=worker))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["left"], "a process is left behind"
    return found


def test_results_in_order_and_all_is_told() -> None:
    found = outcome(
        """
def work(piece):
    meet()
    return [piece * piece, os.getpid()]
"""
    )
    assert [square for square, _ in found["found"]] == [piece * piece for piece in range(100)]
    assert len({pid for _, pid in found["found"]}) > 1
    assert found["done"] == sum(range(100))


def test_an_error_of_another_process_is_raised_here() -> None:
    found = outcome(
        """
def work(piece):
    meet()
    if os.getpid() != HERE:
        raise CheckpointError("the file ends", where="a.safetensors", fix="copy it again")
"""
    )
    assert found["found"] == ["CheckpointError", "the file ends\n  in a.safetensors; copy it again"]


def test_a_killed_process_is_told() -> None:
    found = outcome(
        """
def work(piece):
    if os.getpid() == HERE:
        return meet()
    os.kill(os.getpid(), 9)
"""
    )
    assert found["found"][0] == "MergeError"
    assert "was killed" in found["found"][1]


def test_an_interrupt_ends_all() -> None:
    found = outcome(
        """
def work(piece):
    meet()
    if os.getpid() == HERE:
        raise KeyboardInterrupt
"""
    )
    assert found["found"] == ["KeyboardInterrupt", ""]


ORPHANS = """
import os, sys
from vlmerge_cli.merging import forks

HERE = os.getpid()

def work(piece):
    if os.getpid() == HERE:
        os.read(int(sys.argv[1]), 1)  # for ever
    os.write(1, b"x")

forks.run(lambda: work, range(10**5), 2, lambda piece: 1, lambda _: None)
"""


def test_processes_end_when_the_first_is_killed() -> None:
    never, ours = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(never)], stdout=subprocess.PIPE, pass_fds=[never]
    ) as first:
        assert first.stdout is not None
        assert first.stdout.read(1) == b"x"
        first.send_signal(signal.SIGKILL)
        assert len(first.stdout.read()) < 10**5 - 1, "the other ends early, and its pipe with it"
    os.close(never)
    os.close(ours)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_distances_do_not_depend_on_the_number_of_processes(dtype: str, tmp_path: Path) -> None:
    path = save(tmp_path / "c.safetensors", tiny(width=128, hidden=512, dtype=NUMPY[dtype]))
    found = {run("distance", path, "--json", "--threads", threads).stdout for threads in (1, 2, 3)}
    assert len(found) == 1
    assert json.loads(found.pop())["num_weights"] > 10**5
