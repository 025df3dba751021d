import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.randaugment import OPS, amount, apply, draw

NAMES = list(OPS)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (4, 5, 6, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((40, 32), Image.Resampling.BICUBIC)) for one in coarse]
    return torch.from_numpy(np.stack(large).transpose(0, 3, 1, 2).copy())


def one_op(images: torch.Tensor, name: str, value: float) -> np.ndarray:
    codes = torch.full((len(images), 1), NAMES.index(name))
    return apply(images, codes, torch.full((len(images), 1), value)).numpy().transpose(0, 2, 3, 1).astype(int)


def by_pillow(images: torch.Tensor, change) -> np.ndarray:
    pictures = [Image.fromarray(one) for one in images.numpy().transpose(0, 2, 3, 1)]
    return np.stack([np.asarray(change(picture)) for picture in pictures]).astype(int)


def sampled(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Bilinear, pixel by pixel: result at p is the image at ``matrix`` p, 128 beyond its pixels."""
    height, width, _ = image.shape
    result = np.empty(image.shape)

    def at(x: int, y: int) -> np.ndarray:
        return image[y, x] if 0 <= x < width and 0 <= y < height else np.full(3, 128.0)

    for row in range(height):
        for column in range(width):
            x, y = matrix @ (column, row, 1)
            left, top = int(np.floor(x)), int(np.floor(y))
            a, b = x - left, y - top
            upper = (1 - a) * at(left, top) + a * at(left + 1, top)
            lower = (1 - a) * at(left, top + 1) + a * at(left + 1, top + 1)
            result[row, column] = (1 - b) * upper + b * lower
    return result


def test_there_are_the_ten_published_operations_and_their_amounts():
    assert len(OPS) == 10
    assert [round(amount(name, 7), 6) for name in NAMES] == [0, 0, 0, 1.36, 1.36, 0.21, 0.21, 7, 7, 21]


def test_identity(images):
    assert (one_op(images, "identity", 0) == by_pillow(images, lambda p: p)).all()


def test_autocontrast(images):
    flat = images.clone()
    flat[0, 1] = 77  # a channel of one value stays as it is
    assert np.abs(one_op(flat, "autocontrast", 0) - by_pillow(flat, ImageOps.autocontrast)).max() <= 1
    assert (one_op(flat, "autocontrast", 0)[0, :, :, 1] == 77).all()


def test_equalize(images):
    assert np.abs(one_op(images, "equalize", 0) - by_pillow(images, ImageOps.equalize)).max() <= 1


def test_brightness(images):
    plain = np.minimum(images.numpy().transpose(0, 2, 3, 1) * 1.36, 255)
    assert np.abs(one_op(images, "brightness", 1.36) - plain).max() <= 0.51


def test_sharpness(images):
    pillow = by_pillow(images, lambda p: ImageEnhance.Sharpness(p).enhance(1.36))
    assert np.abs(one_op(images, "sharpness", 1.36) - pillow).max() <= 1


@pytest.mark.parametrize(
    ("name", "value", "matrix"),
    [
        ("shear_x", 0.21, [[1, 0.21, 0], [0, 1, 0]]),
        ("shear_y", -0.21, [[1, 0, 0], [-0.21, 1, 0]]),
        ("translate_x", 7.0, [[1, 0, 7], [0, 1, 0]]),
        ("translate_y", -7.0, [[1, 0, 0], [0, 1, -7]]),
    ],
)
def test_shear_and_translation(images, name, value, matrix):
    got = one_op(images[:1], name, value)[0]
    plain = sampled(images[0].numpy().transpose(1, 2, 0).astype(float), np.array(matrix))
    assert np.abs(got - plain).max() <= 0.6


def test_rotation(images):
    turn = np.deg2rad(21.0)
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = (40 - 1) / 2, (32 - 1) / 2
    matrix = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
    got = one_op(images[:1], "rotate", 21.0)[0]
    plain = sampled(images[0].numpy().transpose(1, 2, 0).astype(float), matrix)
    assert np.abs(got - plain).max() <= 0.6
    pillow = Image.fromarray(images[0].numpy().transpose(1, 2, 0)).rotate(
        21.0, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )
    middle = np.abs(got - np.asarray(pillow).astype(int))[8:-8, 10:-10]
    assert np.median(middle) <= 2  # the same turn the same way round; edges differ in how grey comes in


def test_draws_are_half_applied_and_signed():
    drawn = [draw(generator(number), 2, 7) for number in range(3000)]
    codes = np.stack([codes for codes, _ in drawn])
    amounts = np.stack([amounts for _, amounts in drawn])
    assert abs((codes == -1).mean() - 0.5) < 0.02
    counts = np.bincount(codes[codes >= 0], minlength=10)
    assert counts.min() > 0.8 * counts.mean()
    turned = amounts[codes == NAMES.index("rotate")]
    assert set(np.abs(turned).round(4)) == {21.0}
    assert abs((turned > 0).mean() - 0.5) < 0.1
    assert set(amounts[codes == NAMES.index("sharpness")].round(4)) == {np.float32(1.36)}


def test_a_sample_does_not_depend_on_its_neighbours(images):
    drawn = [draw(generator(number), 4, 7) for number in range(len(images))]
    codes = torch.from_numpy(np.stack([codes for codes, _ in drawn]))
    amounts = torch.from_numpy(np.stack([amounts for _, amounts in drawn]))
    together = apply(images, codes, amounts)
    alone = [apply(images[at : at + 1], codes[at : at + 1], amounts[at : at + 1]) for at in range(len(images))]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, images)
