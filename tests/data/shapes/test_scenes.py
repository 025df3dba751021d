import numpy as np
import pytest

from vlmerge_cli.data.shapes.draw import GROUND, UNLABELLED, labels, pixels
from vlmerge_cli.data.shapes.scenes import COLOURS, SHAPES, class_names, labelled_scene, scene


def test_the_same_arguments_give_the_same_scene_and_others_another():
    one = scene(0, "train", 3)
    assert one == scene(0, "train", 3)
    others = [scene(1, "train", 3), scene(0, "val", 3), scene(0, "train", 4), scene(0, "train", 3, "digits")]
    assert all(one != other for other in others)


def test_things_keep_to_their_quarters_and_counts():
    scenes = [scene(0, "train", number) for number in range(800)]
    for one in scenes:
        assert len({thing.cell for thing in one.things}) == len(one.things)
        for thing in one.things:
            row, column = divmod(thing.cell, 2)
            assert 0.5 * column <= thing.x - thing.radius < thing.x + thing.radius <= 0.5 * (column + 1)
            assert 0.5 * row <= thing.y - thing.radius < thing.y + thing.radius <= 0.5 * (row + 1)
    shares = np.bincount([len(one.things) for one in scenes], minlength=5)[1:] / len(scenes)
    assert shares == pytest.approx([0.25, 0.4, 0.25, 0.1], abs=0.06)


def test_the_least_and_the_most_things():
    counts = {len(scene(0, "train", number, num_things=(2, 3)).things) for number in range(100)}
    assert counts == {2, 3}


@pytest.mark.parametrize("variant", ["shapes", "digits"])
@pytest.mark.parametrize("size_px", [24, 48])
def test_pixels_and_labels_at_any_size(variant, size_px):
    one = scene(0, "train", 5, variant)
    image, label = pixels(one, size_px), labels(one, size_px)
    assert image.shape == (size_px, size_px, 3)
    assert (image == pixels(one, size_px)).all()
    assert set(np.unique(label)) >= {UNLABELLED, GROUND}
    for thing in one.things:
        rows = slice(size_px // 2 * (thing.cell // 2), size_px // 2 * (thing.cell // 2 + 1))
        columns = slice(size_px // 2 * (thing.cell % 2), size_px // 2 * (thing.cell % 2 + 1))
        number = 2 + (SHAPES.index(thing.shape) if variant == "shapes" else int(thing.shape))
        assert set(np.unique(label[rows, columns])) <= {UNLABELLED, GROUND, number}
        assert (label[rows, columns] == number).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_colour_it_is_said_to_have(shape):
    """The mean colour of what is labelled as the thing is nearer to its own colour than to any other."""
    from vlmerge_cli.data.shapes.draw import COLOUR_RGB

    hits, total = 0, 0
    for number in range(120):
        for thing in scene(0, "train", number, num_things=(1, 1)).things:
            if thing.shape != shape or thing.texture != "plain" or thing.size != "large":
                continue
            one = scene(0, "train", number, num_things=(1, 1))
            mean = pixels(one, 48)[labels(one, 48) > GROUND].mean(0)
            near = min(COLOURS, key=lambda name: np.abs(mean - COLOUR_RGB[name]).sum())
            hits, total = hits + (near == thing.colour), total + 1
    assert total >= 2
    assert hits == total


def test_class_scenes_have_one_large_thing_of_the_class():
    names = class_names("shapes")
    assert len(names) == 48
    assert list(names) == sorted(names)
    for label in (0, 17, 47):
        one = labelled_scene(0, "train", label, label)
        (main,) = [thing for thing in one.things if thing.size == "large"]
        assert f"{main.colour}_{main.shape}" == names[label]


def test_no_handwritten_digit_is_in_two_splits():
    from vlmerge_cli.data.shapes.digit_glyphs import _samples, glyph

    u, v = np.meshgrid(np.linspace(-1, 1, 10), np.linspace(-1, 1, 10))
    seen = {split: {glyph("3", n, split, u, v).tobytes() for n in range(200)} for split in ("train", "val", "test")}
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]
    assert sum(map(len, seen.values())) == len({ink.tobytes() for ink in _samples()[3]})
