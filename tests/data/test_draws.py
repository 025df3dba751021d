from vlmerge_cli.data.draws import generator, number


def test_same_place_same_draw_and_no_place_like_another():
    places = [(seed, purpose, step) for seed in (0, 1) for purpose in ("mask", "image") for step in range(50)]
    first = [generator(*place).random() for place in places]
    assert first == [generator(*place).random() for place in reversed(places)][::-1]
    assert len(set(first)) == len(first)


def test_a_word_is_not_confused_with_the_number_it_looks_like():
    assert number(0, "1") != number(0, 1)
    assert number(0, "a", "b") != number(0, "ab")


def test_the_stream_is_the_one_that_runs_were_made_with():
    assert tuple(generator(0, "mask", 3, 5).integers(1000, size=4).tolist()) == (654, 862, 63, 802)
