"""Threads that take pieces in order: what they give, how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from vlmerge_cli.engine import pool

WAIT_S = 60


class Squares:
    """Holds its last result back, as a worker with something on its way does."""

    def __init__(self, made: list[Squares]) -> None:
        self.done: list[int] = []
        self.num_finished = 0
        made.append(self)

    def __call__(self, piece: int) -> int:
        self.done.append(piece)
        return piece * piece

    def finish(self) -> None:
        self.num_finished += 1


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_results_in_order_and_every_worker_finished_once(threads: int, count: int) -> None:
    made: list[Squares] = []
    advanced: list[int] = []
    found = pool.run(
        lambda: Squares(made), range(count), threads, lambda piece: piece, advanced.append, finish=Squares.finish
    )
    assert found == [piece * piece for piece in range(count)]
    assert sorted(piece for one in made for piece in one.done) == list(range(count))
    assert all(one.done == sorted(one.done) for one in made)
    assert [one.num_finished for one in made] == [1] * len(made)
    assert sum(advanced) == sum(range(count))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_ends_all_and_nothing_is_finished_after_it(threads: int) -> None:
    made: list[Squares] = []

    def worker() -> Callable[[int], int]:
        one = Squares(made)

        def do(piece: int) -> int:
            if piece >= 5:
                raise ValueError("a bad piece")
            return one(piece)

        return do

    finished: list[object] = []
    with pytest.raises(ValueError, match="a bad piece"):
        pool.run(worker, range(1000), threads, lambda piece: 1, lambda _: None, finish=finished.append)
    assert finished == []
    assert sum(len(one.done) for one in made) == 5


def test_others_begin_while_the_caller_does_something_else() -> None:
    begun = threading.Event()

    def worker() -> Callable[[int], int]:
        def do(piece: int) -> int:
            begun.set()
            return threading.get_ident()

        return do

    def meanwhile() -> None:
        assert begun.wait(WAIT_S), "nobody began"

    pool.run(worker, range(50), 2, lambda piece: 1, lambda _: None, meanwhile=meanwhile)


def test_an_error_of_the_caller_leaves_no_thread_behind() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        pool.run(lambda: lambda piece: piece, range(10**5), 3, lambda piece: 1, lambda _: None, meanwhile=interrupted)
    assert threading.active_count() == before
