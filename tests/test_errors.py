from __future__ import annotations

import pickle

import pytest

from vlmerge_cli import errors
from vlmerge_cli.errors import CheckpointError, UsageError, VlmergeError, joined, nearest

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VlmergeError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_in_the_tree_of_the_docstring(kind: type[VlmergeError]) -> None:
    (line,) = (line for line in (errors.__doc__ or "").splitlines() if f"{kind.__name__} " in line)
    assert line.split(kind.__name__)[1].split()[0] == str(kind.exit_code)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_can_travel_between_processes(kind: type[VlmergeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", where="here", fix="do")))
    assert type(error) is kind
    assert str(error) == "what\n  in here; do"


@pytest.mark.parametrize(
    ("where", "fix", "text"),
    [("", "", "what"), ("x", "", "what\n  in x"), ("", "do", "what\n  do"), ("x", "do", "what\n  in x; do")],
)
def test_one_line_and_one_for_the_place(where: str, fix: str, text: str) -> None:
    assert str(VlmergeError("what", where=where, fix=fix)) == text


def test_nearest() -> None:
    assert nearest("interpolaton", ["interpolation", "regmean"]) == "did you mean 'interpolation'?"
    assert nearest("x", ["b", "a"]) == "choose one of: a, b"
    assert nearest("x", []) == "there is none"
    assert nearest("x", map(str, range(20))).endswith(", ...")


def test_joined() -> None:
    assert joined(["a", "b"]) == "a\n  b"
    assert joined(list("abcd"), most=2) == "a\n  b\n  ... and 2 more"


def test_foreign_line_ends_make_no_new_line() -> None:
    """A key or a file's name may hold one; several problems still stand in a line each."""
    error = VlmergeError("a\nb", where="c\nd", fix="e\nf", problems=("g\nh", "i"))
    assert str(error) == "a\\nb\n  g\\nh\n  i\n  in c\\nd; e\\nf"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(VlmergeError("a:", problems=("b",))) == "a: b"


def test_an_error_told_of_another_place_keeps_its_lines() -> None:
    error = UsageError("no such model:", problems=["a is x\ny", "b is 1"], where="here", fix="do")
    assert str(error.retold(CheckpointError, "there")) == "no such model:\n  a is x\\ny\n  b is 1\n  in there"
    assert type(error.retold(CheckpointError, "there")) is CheckpointError
