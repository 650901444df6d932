"""The loader's place in an epoch, pictures on the device, and batches sent ahead. "meta" stands in for a device:
its tensors have shapes and no values, so whatever reads one fails, as it would make a GPU wait."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from sftlib.datasets import PictureSplit, loader
from sftlib.datasets.augment import Chain, Crop, boxes_by_products, flip, flip_vertical, resized_boxes, rotate
from sftlib.datasets.files import FileSplit
from sftlib.datasets.on_device import prefetch, stored_bytes, to_device

META = torch.device("meta")


def split_of(n, grey=False):
    g = torch.Generator().manual_seed(n)
    pictures = torch.randint(256, (n, 1 if grey else 3, 7, 11), generator=g, dtype=torch.uint8).expand(-1, 3, -1, -1)
    return PictureSplit(pictures, torch.arange(n), tuple(map(str, range(n))))


def in_files(split):
    """The same pictures, read one by one"""
    folder = Path(tempfile.mkdtemp())
    for i, (picture, _) in enumerate(split):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return FileSplit(tuple(folder / f"{i}.png" for i in range(len(split))), split.labels, split.names, None)


class Plain(Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return self.split[i]


def batches_of(split, seed=7, **settings):
    settings = {"batch_size": 5, "shuffle": True, "augment": Chain((Crop(3), flip))} | settings
    return loader(split, torch.Tensor.float, generator=torch.Generator().manual_seed(seed), **settings)


def same(batches, others):
    return all(
        torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(list(batches), list(others), strict=True)
    )


# --- the place in an epoch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda s: s, in_files, Plain])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("used", [0, 1, 3, 6])
def test_another_loader_goes_on_with_the_batch_that_followed(kind, shuffle, used):
    whole, resumed = (batches_of(kind(split_of(29)), seed, shuffle=shuffle) for seed in (7, 8))
    list(whole)  # the second epoch
    going = iter(whole)
    for _ in range(used):
        next(going)
    resumed.load_state_dict(whole.state_dict())
    rest, others = list(going), list(resumed)
    assert len(rest) == 6 - used
    assert same(rest, others) and same(whole, resumed)  # and the third epoch


def test_between_epochs_the_state_is_that_of_the_next_epoch():
    whole, resumed = (batches_of(split_of(13), seed) for seed in (7, 8))
    assert len(list(whole)) == 3
    resumed.load_state_dict(whole.state_dict())
    assert same(whole, resumed)


def test_the_state_is_small_whatever_the_split():
    batches = batches_of(split_of(997))
    next(iter(batches))
    size = sum(v.numel() for v in batches.state_dict().values() if isinstance(v, torch.Tensor))
    assert size == 2 * torch.Generator().get_state().numel()


def test_stopping_in_the_middle_and_starting_again_gives_a_new_epoch():
    batches, twin = batches_of(split_of(13)), batches_of(split_of(13))
    for each in (batches, twin):
        next(iter(each))
    assert len(list(batches)) == 3
    list(twin)
    assert same(batches, twin)


def test_the_state_of_another_loader_is_refused_and_changes_nothing():
    batches = batches_of(split_of(13))
    for other in (
        batches_of(split_of(11)),
        batches_of(split_of(13), batch_size=7),
        batches_of(split_of(13), shuffle=False),
    ):
        before = batches.generator.get_state()
        with pytest.raises(ValueError, match="got the place of a loader with .* here it is"):
            batches.load_state_dict(other.state_dict())
        assert torch.equal(before, batches.generator.get_state())


def test_a_loader_made_from_another_by_replace_is_in_the_same_place():
    batches, alone = batches_of(split_of(13)), batches_of(split_of(13))
    other = dataclasses.replace(batches, make=dataclasses.replace(batches.make, function=torch.Tensor.double))
    next(iter(other))
    next(iter(alone))
    for name, value in alone.state_dict().items():
        found = batches.state_dict()[name]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


# --- pictures on the device -------------------------------------------------------------------------------------


def test_on_the_cpu_nothing_is_copied_and_batches_are_the_same():
    split = split_of(13)
    there = to_device(split, "cpu")
    assert there.pictures.data_ptr() == split.pictures.data_ptr()
    assert same(batches_of(split), batches_of(there))
    batches = batches_of(split)
    assert prefetch(batches, "cpu") is batches


@pytest.mark.parametrize("grey", [True, False])
def test_a_loader_of_pictures_on_a_device_makes_its_batches_there_and_reads_none(grey):
    split = to_device(split_of(13, grey), META)
    assert split.pictures.device == split.labels.device == META and split.names == split_of(13).names
    assert (split.pictures.stride(1) == 0) is grey
    augment = Chain((flip, flip_vertical, Crop(5), rotate))
    shapes = [(x.device, tuple(x.shape), y.device) for x, y in batches_of(split, augment=augment)]
    assert shapes == [(META, (n, 3, 5, 5), META) for n in (5, 5, 3)]


def test_the_draws_do_not_depend_on_the_device():
    augment = Chain((flip, Crop(5), rotate))
    here, there = (batches_of(split, augment=augment) for split in (split_of(13), to_device(split_of(13), META)))
    list(here), list(there)
    assert torch.equal(here.generator.get_state(), there.generator.get_state())


@pytest.mark.parametrize("size", [3, 5, 13, 29])
def test_crops_by_products_are_those_of_interpolate(size):
    g = torch.Generator().manual_seed(size)
    pictures = torch.randint(256, (7, 2, 17, 23), generator=g, dtype=torch.uint8)
    boxes = Crop(size, scale=(0.02, 1.0)).boxes(7, 17, 23, g)
    boxes[:3] = torch.tensor([[0, 0, 17, 23], [16, 22, 1, 1], [3, 5, 11, 2]])
    found = boxes_by_products(pictures.float(), boxes, size)
    for picture, (top, left, height, width), ours in zip(pictures.float(), boxes.tolist(), found, strict=True):
        part = picture[None, :, top : top + height, left : left + width]
        theirs = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    on_cpu = resized_boxes(pictures, boxes, size).float()
    assert (found - on_cpu).abs().max() <= 1  # grey values: the uint8 kernel rounds twice


def test_grey_pictures_count_once():
    assert stored_bytes(split_of(13, grey=True).pictures) == 13 * 7 * 11
    assert stored_bytes(split_of(13).pictures) == 13 * 3 * 7 * 11


def test_what_does_not_fit_or_lies_in_files_stays(monkeypatch):
    split, files = split_of(13), in_files(split_of(13))
    bytes_needed = 13 * 3 * 7 * 11
    for free, moved in ((2 * bytes_needed, True), (2 * bytes_needed - 1, False)):
        monkeypatch.setattr("sftlib.datasets.on_device.free_bytes", lambda device, free=free: free)
        assert (to_device(split, META).pictures.device == META) is moved
    assert to_device(files, META) is files
    with pytest.raises(ValueError, match="share=0"):
        to_device(split, META, share=0)


# --- batches sent ahead -----------------------------------------------------------------------------------------


def test_batches_are_sent_ahead_in_order_and_one_at_a_time():
    batches, made = batches_of(split_of(29)), []
    counting = dataclasses.replace(batches.make, function=lambda p: made.append(len(made)) or p.float())
    ahead = prefetch(dataclasses.replace(batches, make=counting), META)
    assert len(ahead) == 6
    for given, (x, y) in enumerate(ahead, start=1):
        assert x.device == y.device == META
        assert len(made) == min(given + 1, 6)


@pytest.mark.parametrize("used", [0, 1, 5, 6])
def test_the_place_of_a_prefetching_loader_is_that_of_the_batch_given_last(used):
    lazy, eager, resumed = (batches_of(split_of(29), seed) for seed in (7, 7, 8))
    ahead = prefetch(eager, META)
    plain, sent = iter(lazy), iter(ahead)
    for _ in range(used):
        next(plain), next(sent)
    resumed.load_state_dict(ahead.state_dict())
    assert same(plain, resumed)
    fresh = prefetch(batches_of(split_of(29), 9), META)
    fresh.load_state_dict(ahead.state_dict())
    assert len(list(fresh)) == 6 - used
    assert len(list(sent)) == 6 - used  # the epoch ends, and the state is that of the next one
    resumed.load_state_dict(ahead.state_dict())
    assert same(lazy, resumed)


def test_only_the_courses_loader_is_sent_ahead():
    with pytest.raises(ValueError, match="got a list; expected a loader"):
        prefetch([(1, 2)], "cpu")


def test_a_network_for_its_preprocessing_and_pictures_for_their_split_are_named():
    network = torch.nn.Conv2d(3, 2, 3)
    network.preprocess = lambda pictures: pictures / 255
    pictures = torch.zeros(5, 3, 7, 7, dtype=torch.uint8)
    split = PictureSplit(pictures, torch.arange(5), tuple("abcde"))
    with pytest.raises(ValueError, match=r"got preprocess=a Conv2d; expected .* a backbone's \.preprocess"):
        loader(split, network)
    with pytest.raises(ValueError, match=r"got split=a Tensor; expected a split of a dataset"):
        loader(pictures, network.preprocess)
    assert next(iter(loader(split, torch.nn.Identity())))[0].shape == (5, 3, 7, 7)  # a module may preprocess
