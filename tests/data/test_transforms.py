import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from vlmerge_cli.data.bad import BadSample
from vlmerge_cli.data.draws import generator
from vlmerge_cli.data.samples import FileImage
from vlmerge_cli.data.transforms import CENTRE, NONE, Augment, Crop, draw_crop, load_image, load_mask, normalised
from vlmerge_cli.errors import UsageError


def test_evaluation_is_a_plain_bicubic_resize(tmp_path, jpeg):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1, 24, 20))
    got, crop = load_image(FileImage(str(path)), 12, NONE, generator(0))
    plain = Image.open(path).convert("RGB").resize((12, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(got, np.asarray(plain).transpose(2, 0, 1))
    assert crop == Crop(0, 0, 24, 20, False)


def test_a_large_jpeg_decoded_small_is_close_to_one_decoded_whole(tmp_path, jpeg):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1, 640, 480))
    got, _ = load_image(FileImage(str(path)), 60, NONE, generator(0))
    plain = np.asarray(Image.open(path).convert("RGB").resize((60, 60), Image.Resampling.BICUBIC))
    assert np.abs(got.transpose(1, 2, 0).astype(int) - plain).mean() < 2


def test_a_crop_is_what_its_box_says(tmp_path):
    path = tmp_path / "a.png"
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    augment = Augment(num_ops=0)
    for number in range(20):
        got, crop = load_image(FileImage(str(path)), 16, augment, generator(number))
        cut = Image.fromarray(array[int(crop.top) : int(crop.bottom), int(crop.left) : int(crop.right)])
        plain = np.asarray(cut.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
        plain = plain[:, ::-1] if crop.flip else plain
        inner = np.abs(got.transpose(1, 2, 0).astype(int) - plain)[2:-2, 2:-2]
        assert inner.max() <= 1  # at the rim the box sees its neighbours, the cut does not


def test_crops_keep_to_scale_and_aspect_and_flip_half_of_the_time():
    augment = Augment()
    crops = [draw_crop(generator(number), 300, 200, augment) for number in range(2000)]
    for crop in crops:
        width, height = crop.right - crop.left, crop.bottom - crop.top
        assert 0 <= crop.left < crop.right <= 300
        assert 0 <= crop.top < crop.bottom <= 200
        assert 0.49 <= width * height / 60000 <= 1.0
        assert 0.74 <= width / height <= 1.35
    assert abs(np.mean([crop.flip for crop in crops]) - 0.5) < 0.04


def test_where_no_box_fits_the_largest_of_the_aspect_is_taken():
    crop = draw_crop(generator(0), 1000, 10, Augment(crop_scale=(0.9, 1.0)))
    assert crop[:4] == ((1000 - 13) // 2, 0, (1000 - 13) // 2 + 13, 10)


def test_a_mask_gets_the_same_crop_without_new_values(tmp_path):
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(labels).save(tmp_path / "m.png")
    mask = FileImage(str(tmp_path / "m.png"))
    assert np.array_equal(load_mask(mask, 4, Crop(4, 0, 8, 4)), labels[:4, 4:])
    assert np.array_equal(load_mask(mask, 4, Crop(4, 0, 8, 4, True)), labels[:4, 4:][:, ::-1])


def test_a_palette_mask_keeps_its_indices(tmp_path):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    picture = Image.fromarray(labels).convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([255 - value // 3 for value in range(768)])
    picture.save(tmp_path / "m.png")
    assert np.array_equal(load_mask(FileImage(str(tmp_path / "m.png")), 4, Crop(0, 0, 4, 4)), labels)


def test_other_modes_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "CMYK", "P", "1"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (8, 8)).save(path)
        assert load_image(FileImage(str(path)), 8, NONE, generator(0))[0].shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated or unreadable image"),
        (lambda data: b"", "empty image file"),
        (lambda data: b"not an image at all", "unreadable image"),
    ],
)
def test_broken_images_say_why(tmp_path, jpeg, damage, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(damage(jpeg(1, 100, 100)))
    with pytest.raises(BadSample) as caught:
        load_image(FileImage(str(path)), 8, NONE, generator(0))
    assert caught.value.problem == (reason, str(path), 1)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(BadSample, match="missing image"):
        load_image(FileImage(str(tmp_path / "none.jpg")), 8, NONE, generator(0))


def test_normalised():
    got = normalised(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert got.tolist() == pytest.approx([-1.0, (0.2 - 0.5) / 0.5, 1.0], abs=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pixels_on_a_gpu_equal_the_cpus():
    """To the last bit: CUDA would multiply by 1 / 127.5 where it is asked to divide by a number."""
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(normalised(pixels.cuda()).cpu(), normalised(pixels))


@pytest.mark.parametrize(
    "wrong", [{"crop_scale": (0.0, 1.0)}, {"flip": 1.5}, {"magnitude": 11}, {"crop_aspect": (2, 1)}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        Augment(**wrong)


def test_a_jpeg_in_memory_is_not_needed_twice(tmp_path, jpeg):
    """Small pictures are kept decoded: the same pixels come back, whatever crop is asked for."""
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(3, 16, 16))
    image = FileImage(str(path))
    first = load_image(image, 16, NONE, generator(0))[0]
    load_image(image, 16, Augment(num_ops=0), generator(1))
    assert np.array_equal(load_image(image, 16, NONE, generator(0))[0], first)
    assert np.array_equal(first, np.asarray(Image.open(io.BytesIO(path.read_bytes()))).transpose(2, 0, 1))
    assert math.prod(first.shape) == 768


def test_the_centre_view_is_what_resizing_to_256_and_cropping_224_gives():
    crop = draw_crop(np.random.default_rng(0), 500, 375, CENTRE)
    assert crop[:4] == (85.9375, 23.4375, 414.0625, 351.5625)  # 375 · 224 / 256 = 328.125 px in the middle
