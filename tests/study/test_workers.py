"""The pool: order, failures, processes that die."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.nodes_of_tests import Says, do
from vlmerge_cli.study.nodes import Node, Place
from vlmerge_cli.study.settings import load
from vlmerge_cli.study.workers import Pool


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_failure_costs_what_needs_it_and_no_more(num_workers: int, tmp_path: Path) -> None:
    nodes = [
        Node("a", Says()),
        Node("a/b", Says("error"), ("a",)),
        Node("a/b/c", Says(), ("a/b",)),
        Node("a/b/c/d", Says(), ("a/b/c",)),
        Node("killed", Says("killed")),
        Node("mistake", Says("mistake")),
        Node("last", Says(), ("a", "elsewhere")),  # what is not among the nodes is there already
    ]
    root = tmp_path / "nodes"
    with Pool(num_workers, do, load("quick", None, [])) as pool:
        found = {node.name: done.error for node, done in pool.run(nodes, lambda node: Place(root, node.name))}
    assert found == {
        "a": "",
        "a/b": "no such data\n  in nowhere; look elsewhere",
        "killed": "its process ended with signal SIGKILL",
        "mistake": "RuntimeError: a mistake; see its log.txt",
        "last": "",
    }
    assert (root / "a" / "log.txt").read_text() == "hello from a\n"
    assert "RuntimeError: a mistake" in (root / "mistake" / "log.txt").read_text()
