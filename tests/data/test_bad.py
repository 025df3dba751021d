import pytest

from vlmerge_cli.data.bad import BadSamples, Problem
from vlmerge_cli.errors import DataError


def test_one_bad_sample_stops_by_default_and_all_reasons_are_named():
    bad = BadSamples()
    bad.add("missing image", "a.jpg")
    bad.add("missing image", "b.jpg")
    bad.add("empty caption", "c.jpg")
    with pytest.raises(DataError, match=r"3 of 10 .* 2 × missing image \(a.jpg, b.jpg\); 1 × empty caption"):
        bad.settle(7, "here")


def test_a_ratio_counts_against_all_samples():
    bad = BadSamples(max_ratio=0.1)
    bad.add("missing shard", "00001.tar", 10)
    bad.settle(90)
    bad.add("empty caption", "x")
    with pytest.raises(DataError, match=r"more than the 0\.1 allowed"):
        bad.settle(90)


def test_nothing_usable_is_an_error_whatever_is_allowed():
    with pytest.raises(DataError, match="no usable sample"):
        BadSamples(max_ratio=1.0).settle(0)


def test_a_bad_sample_met_again_counts_once():
    bad = BadSamples(max_ratio=0.1)
    bad.settle(20)
    for _ in range(50):
        bad.meet(20, [Problem("unreadable image", "a"), Problem("unreadable image", "b")])
    assert bad.counts == {"unreadable image": 2}
    with pytest.raises(DataError, match="3 of"):
        bad.meet(1, [Problem("unreadable image", "c")])


def test_of_a_large_set_a_thousand_samples_are_judged_first():
    bad = BadSamples(max_ratio=0.01)
    bad.settle(10**6)
    bad.meet(20, [Problem("unreadable image", str(number)) for number in range(10)])
    with pytest.raises(DataError, match="11 of"):
        bad.meet(1, [Problem("unreadable image", "one more")])


def test_what_opening_lost_leaves_less_for_reading():
    bad = BadSamples(max_ratio=0.1)
    bad.add("missing shard", "s", 9)
    bad.settle(91)
    bad.meet(1, [Problem("unreadable image", "a")])
    with pytest.raises(DataError):
        bad.meet(1, [Problem("unreadable image", "b")])


def test_only_the_first_examples_are_kept():
    bad = BadSamples(max_ratio=1.0, max_examples=2)
    for number in range(5):
        bad.add("missing image", f"{number}.jpg")
    assert bad.report() == "5 × missing image (0.jpg, 1.jpg, ...)"
