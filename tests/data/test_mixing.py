import numpy as np
import pytest
import torch

from vlmerge_cli.data import mixing
from vlmerge_cli.data.draws import generator
from vlmerge_cli.errors import UsageError


def test_mixup_blends_neighbours():
    images = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    shares, boxes = torch.tensor([0.25, 0.5, 1.0, 0.9]), torch.zeros(4, 4, dtype=torch.int64)
    mixed = mixing.apply(images, shares, boxes)
    for own, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        share = float(shares[own])
        torch.testing.assert_close(mixed[own], share * images[own] + (1 - share) * images[other])


def test_cutmix_takes_a_box_of_the_neighbour():
    images = torch.randn(2, 3, 8, 8)
    boxes = torch.tensor([[1, 2, 5, 8], [0, 0, 0, 0]])
    mixed = mixing.apply(images, torch.tensor([1 - 24 / 64, 1.0]), boxes)
    expected = images[0].clone()
    expected[:, 1:5, 2:8] = images[1][:, 1:5, 2:8]
    assert torch.equal(mixed[0], expected)
    assert torch.equal(mixed[1], images[1])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_draws_have_the_published_distribution(mixup: float, cutmix: float):
    drawn = [mixing.draw(generator(0, "mix", row), 32, mixup, cutmix) for row in range(4000)]
    cut = np.array([(box[2] > box[0]) or share == 1 for share, box in drawn])
    assert abs(cut.mean() - (0.5 if mixup and cutmix else float(bool(cutmix)))) < 0.03
    for share, box in drawn:
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert area == 0 or share == pytest.approx(1 - area / 32**2)
        assert box.min() >= 0
        assert box.max() <= 32
    blended = np.array([share for (share, _), is_cut in zip(drawn, cut, strict=True) if not is_cut])
    if len(blended):
        assert blended.mean() == pytest.approx(0.5, abs=0.03)
        assert blended.var() == pytest.approx(1 / (4 * (2 * mixup + 1)), abs=0.01)  # of Beta(α, α)


def test_neighbours_need_pairs():
    assert mixing.neighbours(4).tolist() == [1, 0, 3, 2]
    with pytest.raises(UsageError, match="pair samples, and a process has 3"):
        mixing.neighbours(3)
