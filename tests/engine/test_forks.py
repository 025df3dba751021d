"""Forked processes that take pieces: what they give, how they end. Each in an interpreter of its own."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import NUMPY, command, environment, run_python, save, tiny
from vlmerge_cli.engine import forks
from vlmerge_cli.errors import MergeError

# Runs the work that a test gives on 100 pieces, and says what came of it and whether a process is left.
CHILD = """
import json, os, signal, sys
from vlmerge_cli.errors import CheckpointError
from vlmerge_cli.engine import forks

HERE, TO_FIRST, TO_OTHERS = os.getpid(), os.pipe(), os.pipe()
advanced, met = [], []

def meet():  # returns when the first process and another have both begun, or the others are dead
    if not met:
        met.append(True)
        if os.getpid() == HERE:
            os.close(TO_FIRST[1])
            os.write(TO_OTHERS[1], b"xxx")
            os.read(TO_FIRST[0], 1)
        else:
            os.write(TO_FIRST[1], b"x")
            os.read(TO_OTHERS[0], 1)

{work}

def outcome():
    try:
        return forks.run(lambda: work, range(100), {processes}, lambda piece: piece, advanced.append)
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


def outcome(work: str, processes: int = 3) -> Any:
    done = run_python(CHILD.format(work=work, processes=processes), timeout=100)
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


def test_every_piece_is_taken_once() -> None:
    script = """
from vlmerge_cli.engine import forks
done = []
found = forks.run(lambda: lambda piece: piece, range(30_000), 4, lambda piece: 1, done.append)
assert found == list(range(30_000))
print(sum(done))
"""
    assert run_python(script).stdout == "30000\n"


def test_an_error_of_another_process_is_raised_here_and_stops_all() -> None:
    found = outcome(
        """
def work(piece):
    meet()
    if os.getpid() != HERE:
        raise CheckpointError("the file ends", where="a.safetensors", fix="copy it again")
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # until another has ended
"""
    )
    assert found["found"] == ["CheckpointError", "the file ends\n  in a.safetensors; copy it again"]
    assert found["done"] < sum(range(10)), "the first process went on"


def test_a_killed_process_is_told() -> None:
    found = outcome(
        """
def work(piece):
    meet()
    if os.getpid() != HERE:
        os.kill(os.getpid(), 9)
"""
    )
    assert found["found"][0] == "MergeError"
    assert "was killed" in found["found"][1]


@pytest.mark.parametrize("size", [0, 1, 500])
def test_an_outcome_that_breaks_off_is_that_of_a_killed_process(size: int) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(pickle.dumps((False, bytes(1000)))[:size])
    with os.fdopen(read, "rb") as pipe, pytest.raises(MergeError, match="was killed"):
        forks.Fork(0, pipe).result()


def test_an_error_that_cannot_be_sent_is_told() -> None:
    found = outcome(
        """
class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one + two)

def work(piece):
    meet()
    if os.getpid() != HERE:
        raise Odd("a", "b")
"""
    )
    assert found["found"] == ["RuntimeError", "Odd: ab"]


@pytest.mark.parametrize("size", [1, 100_000])
def test_an_interrupt_ends_all_however_much_they_have_to_say(size: int) -> None:
    found = outcome(
        f"""
def work(piece):
    meet()
    if os.getpid() == HERE:
        raise KeyboardInterrupt
    return bytes({size})
""",
        processes=4,
    )
    assert found["found"] == ["KeyboardInterrupt", ""]


def test_where_the_system_forgets_what_has_ended() -> None:
    found = outcome(
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def work(piece):
    meet()
    return piece
"""
    )
    assert found["found"] == list(range(100))


ORPHANS = """
import os, sys
from vlmerge_cli.engine import forks

HERE = os.getpid()

def work(piece):
    if os.getpid() == HERE:
        os.read(int(sys.argv[1]), 1)  # for ever
    os.write(1, b"x")

forks.run(lambda: work, range(10**6), 2, lambda piece: 1, lambda _: None)
"""


def test_processes_end_when_the_first_is_killed() -> None:
    never, ours = os.pipe()
    arguments = [sys.executable, "-c", ORPHANS, str(never)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, pass_fds=[never], env=environment()) as first:
        assert first.stdout is not None
        assert first.stdout.read(1) == b"x"
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert len(first.stdout.read()) < 10**5 * 5, "the other ends early, and its end of the pipe with it"
    os.close(never)
    os.close(ours)


# Distances of one file with 1, 2 and 3 processes, small limits for all that a large file would reach.
DISTANCES = """
import json, sys
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.layouts.survey import detect
from vlmerge_cli.engine import forks
from vlmerge_cli.distances import measure
from vlmerge_cli.distances import scan
from vlmerge_cli.metrics import threshold

scan.PIECE, scan.CHUNK, scan.SAMPLED, threshold.SAMPLE, threshold.PART_BITS = 1000, 300, 500, 5000, int(sys.argv[2])
calls, real = [], forks.run
forks.run = lambda *given: (calls.append(given[2]), real(*given))[1]
with open_checkpoint(sys.argv[1]) as opened:
    survey, _ = detect(opened.tensors, "")
    found = [repr(measure.measure(opened, survey, ("v", "l"), threads=threads)) for threads in (1, 2, 3)]
print(json.dumps({"found": len(set(found)), "processes": sorted(set(calls))}))
"""


@pytest.mark.parametrize("bits", [3, 10, 18])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_distances_do_not_depend_on_the_number_of_processes(dtype: str, bits: int, tmp_path: Path) -> None:
    path = save(tmp_path / "c.safetensors", tiny(width=40, hidden=80, dtype=NUMPY[dtype]))
    done = run_python(DISTANCES, path, bits)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"found": 1, "processes": [2, 3]}


def test_what_is_not_finite_is_told_as_by_one_process(tmp_path: Path) -> None:
    tensors = tiny(width=40, hidden=80)
    tensors["transformer.blocks.1.norm1.l.bias"][0] = np.nan
    path = save(tmp_path / "c.safetensors", tensors)
    done = subprocess.run(
        command("distance", path, "--threads", 3), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: NaN or infinity in transformer.blocks.1.norm1.v.bias or")
    assert done.stderr.count("\n") == 2
