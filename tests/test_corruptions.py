"""Corrupted pictures against SciPy, PIL and NumPy, one picture and one channel at a time."""

from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Generator

from sftlib.datasets import PictureSplit, loader
from sftlib.datasets.corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    blur,
    brightness,
    compression,
    contrast,
    corrupted,
    noise,
)

ALL = pytest.mark.parametrize("name", CORRUPTIONS)
EVERY = pytest.mark.parametrize("strength", STRENGTHS)


def seeded(seed=0):
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures():
    """uint8 (5, 3, 113, 127): smooth colours with detail, no two pictures of one brightness"""
    y, x = np.mgrid[:113, :127] / 17.0
    rng = np.random.default_rng(0)
    waves = [[np.sin(x * a + c) * np.cos(y * b) for c in (0, 1, 2)] for a, b in rng.uniform(0.3, 2.9, (5, 2))]
    levels = np.linspace(60, 150, 5)[:, None, None, None]
    return torch.from_numpy(np.clip(levels + 55 * np.array(waves) + rng.normal(0, 9, (5, 3, 113, 127)), 0, 255)).byte()


@EVERY
def test_blur_is_scipys_gaussian_filter(pictures, strength):
    sigma = (1, 2, 3, 4, 6)[strength - 1] * 113 / 224
    got = blur(pictures, strength=strength).float()
    for i, c in ((0, 0), (3, 2)):
        oracle = gaussian_filter(pictures[i, c].double().numpy(), sigma, mode="nearest", truncate=4)
        assert np.abs(got[i, c].numpy() - oracle).max() <= 0.51


@EVERY
def test_contrast_and_brightness_pixel_by_pixel(pictures, strength):
    c, lift = (0.4, 0.3, 0.2, 0.1, 0.05)[strength - 1], (0.1, 0.2, 0.3, 0.4, 0.5)[strength - 1]
    flat, bright = contrast(pictures, strength=strength), brightness(pictures, strength=strength)
    for i, channel in ((1, 0), (4, 2)):
        x = pictures[i, channel].double().numpy()
        assert np.abs(flat[i, channel].numpy() - ((x - x.mean()) * c + x.mean())).max() <= 0.51
        assert np.abs(bright[i, channel].numpy() - np.clip(x + 255 * lift, 0, 255)).max() <= 0.51


@EVERY
def test_compression_is_pils(pictures, strength):
    got = compression(pictures, strength=strength)
    for i, picture in enumerate(pictures):
        file = BytesIO()
        array = picture.permute(1, 2, 0).numpy()
        Image.fromarray(array, "RGB").save(file, format="JPEG", quality=(25, 18, 15, 10, 7)[strength - 1])
        oracle = np.array(Image.open(file).convert("RGB"))
        assert np.array_equal(got[i].permute(1, 2, 0).numpy(), oracle)


@EVERY
def test_noise_has_the_stated_deviation_is_centred_and_white(strength):
    middle = torch.full((3, 3, 113, 127), 128, dtype=torch.uint8)
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1]
    e = (noise(middle, seeded(), strength=strength).double() - 128)[:, 0] / 255
    rng = np.random.default_rng(1)  # clipping takes some of the deviation
    expected = np.clip(rng.normal(128, 255 * deviation, 10**6), 0, 255).std() / 255
    assert float(e.std()) == pytest.approx(expected, rel=0.02) and abs(float(e.mean())) < 0.005
    for neighbour in (e[:, 1:] * e[:, :-1], e[..., 1:] * e[..., :-1], e[1:] * e[:-1]):
        assert abs(float(neighbour.mean() / e.var())) < 0.02


@ALL
def test_stronger_is_further_from_the_original(pictures, name):
    distances = [
        float((CORRUPTIONS[name](pictures, seeded(), strength=s).float() - pictures).square().mean()) for s in STRENGTHS
    ]
    assert 0 < distances[0] and all(a < b for a, b in zip(distances, distances[1:], strict=False))


@ALL
def test_result_is_a_batch_of_pictures_and_the_original_stays(pictures, name):
    before = pictures.clone()
    got = CORRUPTIONS[name](pictures, seeded(), strength=3)
    assert got.dtype == torch.uint8 and got.shape == pictures.shape and torch.equal(pictures, before)


@ALL
def test_only_the_generator_decides(pictures, name):
    corruption = CORRUPTIONS[name]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = corruption(pictures, seeded(5), strength=2)
    assert torch.equal(first, corruption(pictures, seeded(5), strength=2))
    assert torch.equal(first, corruption(pictures, seeded(6), strength=2)) == (name != "noise")
    assert torch.equal(state, torch.get_rng_state())


@ALL
def test_grey_pictures_stay_grey_however_they_lie_in_memory(pictures, name):
    shown = pictures[:, :1].expand(-1, 3, -1, -1)
    got = CORRUPTIONS[name](shown, seeded(), strength=4)
    assert torch.equal(got, CORRUPTIONS[name](shown.contiguous(), seeded(), strength=4))
    assert torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])


@ALL
def test_pictures_do_not_see_each_other(pictures, name):
    whole = CORRUPTIONS[name](pictures, seeded(), strength=3)
    if name != "noise":  # its draws follow one another
        assert torch.equal(whole[2:3], CORRUPTIONS[name](pictures[2:3], seeded(), strength=3))


def test_a_split_is_corrupted_once_and_for_all(pictures):
    split = PictureSplit(pictures.repeat(17, 1, 1, 1), torch.arange(85), tuple(map(str, range(85))))
    noisy = corrupted(split, noise, 3, seed=7)
    assert torch.equal(noisy.pictures, corrupted(split, noise, 3, seed=7).pictures)
    assert not torch.equal(noisy.pictures, corrupted(split, noise, 3, seed=8).pictures)
    assert not torch.equal(noisy.pictures[0], noisy.pictures[5]) and noisy.names == split.names
    assert not torch.equal(noisy.pictures[0], noisy.pictures[65])  # of the second part
    assert torch.equal(corrupted(split, compression, 1).pictures, compression(split.pictures, strength=1))


def test_a_corruption_is_an_augmentation_of_the_loader(pictures):
    split = PictureSplit(pictures, torch.arange(5), tuple("abcde"))
    batches = loader(split, torch.Tensor.float, batch_size=2, augment=partial(blur, strength=5))
    assert torch.equal(torch.cat([x for x, _ in batches]), blur(pictures, strength=5).float())


@ALL
def test_what_is_no_picture_and_no_strength_is_refused(pictures, name):
    for bad in (pictures.float(), pictures[0], pictures[:, :1]):
        with pytest.raises(ValueError, match="expected pictures uint8"):
            CORRUPTIONS[name](bad, seeded(), strength=1)
    for strength in (0, 6, 2.5, "3"):
        with pytest.raises(ValueError, match="from weak to strong"):
            CORRUPTIONS[name](pictures, seeded(), strength=strength)
    with pytest.raises(ValueError, match="one in memory"):
        corrupted([], CORRUPTIONS[name], 1)
