import numpy as np
import torch

from vlmerge_cli.data import erasing
from vlmerge_cli.data.draws import generator


def test_boxes_are_drawn_as_published():
    drawn = np.array([erasing.draw(generator(0, "erase", row), 64, 0.25) for row in range(4000)])
    top, left, bottom, right, _ = drawn.T
    is_box = bottom > top
    assert abs(is_box.mean() - 0.25) < 0.02
    share = ((bottom - top) * (right - left))[is_box] / 64**2
    aspect = ((bottom - top) / (right - left).clip(1))[is_box]
    assert 0.015 < share.min() < 0.03
    assert 0.3 < share.max() < 0.35
    assert aspect.min() > 0.25
    assert aspect.max() < 4


def test_a_box_becomes_noise_that_its_own_seed_decides():
    images = torch.zeros(3, 3, 40, 40)
    boxes = torch.tensor([[2, 3, 32, 37, 5], [0, 0, 0, 0, 6], [2, 3, 32, 37, 5]])
    erased = erasing.apply(images, boxes)
    assert torch.equal(erased[0], erased[2])
    assert torch.equal(erased[1], images[1])
    noise = erased[0][:, 2:32, 3:37]
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1
    outside = erased[0].clone()
    outside[:, 2:32, 3:37] = 0
    assert not outside.any()
    assert not images.any()
