"""Photo details: seeded, balanced, splits drawn apart, and each detail from its own place."""

import pytest
import torch

from sftlib.datasets import photo_details

NUMBERS = (41, 17, 23)


@pytest.fixture(scope="module")
def splits():
    return photo_details.load(size=37, seed=0, numbers=NUMBERS)


def test_pictures_labels_and_classes(splits):
    for part, n in zip((splits.train, splits.val, splits.test), NUMBERS, strict=True):
        assert part.pictures.shape == (n, 3, 37, 37) and part.pictures.dtype == torch.uint8
        counts = part.labels.bincount(minlength=8)
        assert len(part) == n and counts.max() - counts.min() <= 1
        assert part.labels[:9].tolist() != sorted(part.labels[:9].tolist())  # shuffled
    assert len(splits.classes) == len(set(splits.classes)) == 8


def test_a_seed_gives_the_same_pictures_again_and_another_seed_others(splits):
    again, other = (photo_details.load(size=37, seed=s, numbers=NUMBERS) for s in (0, 1))
    assert torch.equal(again.test.pictures, splits.test.pictures)
    assert torch.equal(again.train.labels, splits.train.labels)
    assert not torch.equal(other.test.pictures, splits.test.pictures)


def test_no_picture_comes_twice(splits):
    everything = torch.cat([splits.train.pictures, splits.val.pictures, splits.test.pictures]).flatten(1)
    assert len(everything.unique(dim=0)) == sum(NUMBERS)


def test_a_cut_out_that_is_not_turned_is_the_photograph():
    photo = torch.rand(3, 43, 61, generator=torch.Generator().manual_seed(0))
    detail = photo_details.Detail("all", "-", 7, 5, 57, 41)
    side = photo_details.SPAN[0]  # 36 pixels, as many as the picture has: no resampling
    got = photo_details.cut_out(photo, detail, side, torch.tensor([0.5, 0.0, 0.0, 0.0]))
    left = 7 + round((50 - side) / 2)
    assert torch.allclose(got, photo[:, 5 : 5 + side, left : left + side], atol=1e-4)


def test_a_quarter_turn_turns_by_a_quarter():
    photo = torch.rand(3, 43, 61, generator=torch.Generator().manual_seed(0))
    detail = photo_details.Detail("all", "-", 7, 5, 57, 41)
    u = torch.tensor([0.5, 0.0, 0.0, 0.0])
    straight = photo_details.cut_out(photo, detail, 36, u)
    u[3] = 0.25
    turned = photo_details.cut_out(photo, detail, 36, u)
    assert any(torch.allclose(turned, torch.rot90(straight, k, (1, 2)), atol=1e-4) for k in (1, -1))


def test_details_lie_inside_their_photographs():
    for detail in photo_details.DETAILS:
        _, H, W = photo_details._photo(detail.photo).shape
        assert 0 <= detail.left < detail.right <= W and 0 <= detail.top < detail.bottom <= H


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": 10**6}, {"size": 2.5}, {"numbers": (3, 0, 3)}, {"numbers": (3, 3)}]
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="got size=.*expected"):
        photo_details.load(**wrong)
