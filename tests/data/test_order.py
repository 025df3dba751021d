import numpy as np
import pytest

from vlmerge_cli.data.order import PATTERN, Place, Stream, chunks, shuffled, slice_of
from vlmerge_cli.errors import UsageError


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own():
    stream = Stream([10], [1.0], 4, seed=0)
    numbers = [place.number for step in range(5) for place in stream.batch(step)]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:]


def test_a_step_can_be_had_alone():
    forwards = Stream([7, 30], [0.3, 0.7], 8, seed=3)
    all_steps = [forwards.batch(step) for step in range(40)]
    for step in (39, 0, 17, 38):
        assert Stream([7, 30], [0.3, 0.7], 8, seed=3).batch(step) == all_steps[step]
        assert forwards.batch(step) == all_steps[step]


def test_another_seed_is_another_order():
    assert Stream([50], [1.0], 50, 0).batch(0) != Stream([50], [1.0], 50, 1).batch(0)


def test_weights_are_met_exactly_over_a_pattern_and_nearly_before():
    stream = Stream([100, 10, 1000], [0.5, 0.2, 0.3], 1024, seed=0)
    sources = np.array([place.source for step in range(PATTERN // 1024) for place in stream.batch(step)])
    assert np.bincount(sources).tolist() == [32768, 13107, 19661]
    assert np.bincount(sources[:4096]) / 4096 == pytest.approx([0.5, 0.2, 0.3], abs=0.03)


def test_a_source_of_a_mixture_goes_through_all_its_samples_too():
    stream = Stream([5, 9], [0.5, 0.5], 50, seed=0)
    mine = [place.number for step in range(4) for place in stream.batch(step) if place.source == 1]
    for start in range(0, len(mine) - 9, 9):
        assert sorted(mine[start : start + 9]) == list(range(9))


def test_the_pattern_goes_on_beyond_its_end():
    stream = Stream([100_000, 7], [0.9, 0.1], PATTERN, seed=0)
    first = [place.number for place in stream.batch(0) if place.source == 0]
    second = [place.number for place in stream.batch(1) if place.source == 0]
    assert len(set(first + second[: 100_000 - len(first)])) == 100_000


def test_a_share_too_small_to_count_is_refused():
    with pytest.raises(UsageError, match="source 2"):
        Stream([5, 5], [1.0, 1e-7], 4, 0)


def test_ranks_share_the_batch_in_order():
    places = Stream([100], [1.0], 12, 0).batch(3)
    for world in (1, 2, 3, 4, 6):
        parts = [slice_of(places, rank, world) for rank in range(world)]
        assert [place for part in parts for place in part] == places
    with pytest.raises(UsageError, match="12 cannot be shared by 5"):
        slice_of(places, 0, 5)


def test_large_shards_are_shuffled_within_windows():
    starts = np.arange(0, 1001, 50)
    order = shuffled(1000, 0, "x", starts=starts, window=200)
    assert sorted(order) == list(range(1000))
    for start in range(0, 1000, 200):
        assert len({sample // 50 for sample in order[start : start + 200]}) == 4  # four shards a window
    assert not np.array_equal(order, shuffled(1000, 1, "x", starts=starts, window=200))
    assert sorted(shuffled(30, 0, "x", starts=np.array([0, 30]))) == list(range(30))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_gives_each_sample_once_in_equal_chunks(world):
    dealt = [list(chunks([5, 6], 4, rank, world)) for rank in range(world)]
    assert len({len(part) for part in dealt}) == 1
    assert {len(chunk) for part in dealt for chunk in part} == {4}
    valid = sorted((p.source, p.number) for part in dealt for chunk in part for p in chunk if p.valid)
    assert valid == [(0, n) for n in range(5)] + [(1, n) for n in range(6)]
    assert chunks_in_order(dealt)[0] == [Place(n, 0, n) for n in range(4)]


def chunks_in_order(dealt: list[list[list[Place]]]) -> list[list[Place]]:
    return [part[turn] for turn in range(len(dealt[0])) for part in dealt]


def test_a_chunk_is_the_same_whatever_the_ranks():
    alone = chunks_in_order([list(chunks([11], 4, 0, 1))])
    three = chunks_in_order([list(chunks([11], 4, rank, 3)) for rank in range(3)])
    two = chunks_in_order([list(chunks([11], 4, rank, 2)) for rank in range(2)])
    assert three == alone
    assert two[:3] == alone
    assert not any(place.valid for place in two[3])
