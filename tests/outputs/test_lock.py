"""One process a folder; a lock that a dead process left means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import environment, run_python
from vlmerge_cli.errors import UsageError
from vlmerge_cli.outputs import lock

HOLD = """
import sys, time
from pathlib import Path
from vlmerge_cli.outputs import lock
with lock.alone(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"in\n"
    with pytest.raises(UsageError, match=f"process {first.pid} on .* works in"), lock.alone(tmp_path):
        pass
    first.kill()
    first.wait()
    assert (tmp_path / ".lock").exists()  # it was killed
    with lock.alone(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_shared_it_is_taken_while_any_of_ours_lives(tmp_path: Path) -> None:
    refused = run_python(HOLD.replace('in"', 'no"'), tmp_path, input="").returncode == 0
    assert refused  # free
    with lock.alone(tmp_path, shared=True), lock.share(tmp_path):
        done = run_python(HOLD, tmp_path, input="")
        assert done.returncode != 0
        assert "works in" in done.stderr
