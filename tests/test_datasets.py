"""Splits, loader and the batched augmentation, on pictures made here."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from sftlib.datasets import PictureSplit, Splits, loader, stratified_split
from sftlib.datasets.ahead import ahead
from sftlib.datasets.augment import Chain, Crop, flip, flip_vertical, resized_boxes, rotate
from sftlib.datasets.splits import Examples, take

AUGMENTATIONS = (flip, flip_vertical, rotate, Crop(13), Chain((Crop(17), flip, rotate)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures_of(n, side=19, channels=3):
    return torch.randint(256, (n, channels, side, side), dtype=torch.uint8, generator=seeded(n))


def numbered_split(n, side=5):
    """picture i is filled with i, its label is i % 3"""
    pictures = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, side, side).contiguous()
    return PictureSplit(pictures, torch.arange(n) % 3, tuple(f"{i}.png" for i in range(n)))


class OneByOne(Dataset):
    """the same examples without .pictures"""

    def __init__(self, split):
        self.split, self.labels = split, split.labels

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return self.split[i]


class Files(OneByOne):
    """the same examples as image_folder gives them: read(i) -> uint8 (H, W, 3)"""

    def read(self, i):
        return self.split[i][0].permute(1, 2, 0).numpy().copy()


def seen(batches):
    return [int(v) for x, _ in batches for v in x[:, 0, 0, 0]]


# --- splits ----------------------------------------------------------------------------------------------------


def test_split_is_a_map_style_dataset_of_pictures_and_int_labels():
    split = numbered_split(11)
    picture, label = split[7]
    assert picture.shape == (3, 5, 5) and picture.dtype == torch.uint8 and picture.unique().tolist() == [7]
    assert label == 1 and type(label) is int and len(split) == 11
    picture.zero_()  # what a reader does to a picture leaves the dataset alone
    assert split.pictures[7].unique().tolist() == [7]


def test_subset_keeps_the_order_asked_for():
    part = numbered_split(11).subset(torch.tensor([5, 2, 7]))
    assert part.names == ("5.png", "2.png", "7.png")
    assert part.labels.tolist() == [2, 2, 1]
    assert part.pictures[:, 0, 0, 0].tolist() == [5, 2, 7]


def test_take_keeps_grey_pictures_as_one_channel_in_memory():
    grey = pictures_of(7, channels=1).expand(-1, 3, -1, -1)
    taken = take(grey, torch.tensor([3, 0]))
    assert torch.equal(taken, grey.contiguous()[[3, 0]]) and taken.stride(1) == 0


def test_splits_say_how_many_they_hold():
    part = numbered_split(5)
    assert repr(Splits(part, part, part, ("a", "b"))) == "Splits(train 5, val 5, test 5; classes a, b)"


def test_stratified_split_partitions_every_stratum_in_the_same_proportion():
    strata = torch.tensor([0] * 101 + [1] * 53 + [2] * 29)[torch.randperm(183, generator=seeded(1))]
    parts = stratified_split(strata, (0.7, 0.1, 0.2), seeded())
    assert torch.cat(parts).sort().values.tolist() == list(range(183))
    for share, part in zip((0.7, 0.1, 0.2), parts, strict=True):
        for k, n in ((0, 101), (1, 53), (2, 29)):
            assert abs((strata[part] == k).sum() - share * n) < 2
        assert abs(len(part) - share * 183) < 1
        assert part.tolist() == sorted(part.tolist())


def test_stratified_split_follows_its_seed():
    strata = torch.zeros(97, dtype=torch.long)
    first, again, other = (stratified_split(strata, (0.6, 0.2, 0.2), seeded(s))[0] for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_groups_stay_together_even_across_strata():
    groups = torch.arange(60) // 3
    strata = torch.arange(60) % 2  # every group has members of both strata
    parts = stratified_split(strata, (0.5, 0.25, 0.25), seeded(), groups)
    owners = [set(groups[p].tolist()) for p in parts]
    assert sum(map(len, owners)) == 20 and len(set().union(*owners)) == 20
    assert sum(len(p) for p in parts) == 60 and min(len(p) for p in parts) > 0


def test_many_tiny_strata_still_give_the_fractions():
    for n, size in ((53, 1), (31, 2)):
        strata = torch.arange(n).repeat(size)
        parts = stratified_split(strata, (0.5, 0.25, 0.25) if size == 1 else (0.5, 0.5), seeded())
        assert torch.cat(parts).sort().values.tolist() == list(range(n * size))
        assert abs(len(parts[0]) - n * size / 2) <= 1


def test_small_stratum_still_reaches_every_part():
    parts = stratified_split(torch.zeros(3, dtype=torch.long), (0.9, 0.05, 0.05), seeded())
    assert [len(p) for p in parts] == [1, 1, 1]


def test_a_fraction_of_zero_gives_an_empty_part():
    parts = stratified_split(torch.zeros(41, dtype=torch.long), (0.75, 0.0, 0.25), seeded())
    assert [len(p) for p in parts] == [31, 0, 10]


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5)])
def test_wrong_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="together 1"):
        stratified_split(torch.zeros(5, dtype=torch.long), fractions, seeded())


# --- loader ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda s: s, OneByOne, Files, lambda s: Subset(s, range(23))])
def test_an_epoch_visits_each_example_once_with_its_label(kind):
    batches = loader(kind(numbered_split(23)), torch.Tensor.float, batch_size=7, shuffle=True, generator=seeded())
    pairs = [(int(v), int(label)) for x, y in batches for v, label in zip(x[:, 0, 0, 0], y, strict=True)]
    assert sorted(pairs) == [(i, i % 3) for i in range(23)] and pairs != sorted(pairs)


@pytest.mark.parametrize("kind", [OneByOne, Files])
def test_memory_and_one_by_one_give_the_same_batches(kind):
    split = PictureSplit(pictures_of(13), torch.arange(13) % 5, ("",) * 13)
    epochs = [
        list(loader(s, torch.Tensor.float, batch_size=5, shuffle=True, generator=seeded(2)))
        for s in (split, kind(split))
    ]
    for (x, y), (other_x, other_y) in zip(*epochs, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y) and y.dtype == other_y.dtype == torch.int64


def test_files_of_different_sizes_are_preprocessed_one_at_a_time():
    class Sizes(Dataset):
        labels = torch.tensor([1, 0, 1])

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return torch.full((3, 5 + i, 7), i, dtype=torch.uint8), int(self.labels[i])

    x, y = next(iter(loader(Sizes(), lambda p: p[:, :, :5].float(), batch_size=3)))
    assert x.shape == (3, 3, 5, 7) and y.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="one shape"):
        next(iter(loader(Sizes(), torch.Tensor.float, batch_size=3)))
    cropped, _ = next(iter(loader(Sizes(), torch.Tensor.float, batch_size=3, augment=Crop(11), generator=seeded())))
    assert cropped.shape == (3, 3, 11, 11)


def test_without_shuffle_and_augment_an_epoch_is_the_split_and_draws_nothing():
    split, generator = PictureSplit(pictures_of(11), torch.arange(11), ("",) * 11), seeded(5)
    before = generator.get_state()
    batches = list(loader(split, torch.Tensor.double, batch_size=4, generator=generator))
    assert torch.equal(torch.cat([x for x, _ in batches]), split.pictures.double())
    assert torch.equal(torch.cat([y for _, y in batches]), split.labels)
    assert torch.equal(generator.get_state(), before)


def test_each_epoch_has_another_order_and_the_seed_repeats_them():
    batches, again = (
        loader(numbered_split(31), torch.Tensor.float, batch_size=8, shuffle=True, generator=seeded(7))
        for _ in range(2)
    )
    first, second = seen(batches), seen(batches)
    assert first != second and sorted(first) == sorted(second)
    assert [seen(again), seen(again)] == [first, second]


def test_a_stored_generator_state_continues_the_sequence():
    make = lambda: loader(  # noqa: E731
        numbered_split(31), torch.Tensor.float, batch_size=8, shuffle=True, augment=Crop(3), generator=seeded(7)
    )
    batches, resumed = make(), make()
    list(batches)
    resumed.generator.set_state(batches.generator.get_state())
    for (x, y), (other_x, other_y) in zip(batches, resumed, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


def test_without_generator_the_global_seed_decides_and_its_state_is_left_alone():
    orders = []
    for seed in (11, 11, 12):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        orders.append(seen(loader(numbered_split(29), torch.Tensor.float, shuffle=True)))
        assert torch.equal(torch.get_rng_state(), before)
    assert orders[0] == orders[1] != orders[2]


def test_global_random_state_does_not_reach_a_loader_with_a_generator():
    epochs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        epochs.append(
            list(loader(numbered_split(7), torch.Tensor.float, shuffle=True, augment=Crop(5), generator=seeded()))
        )
    assert torch.equal(epochs[0][0][0], epochs[1][0][0])


@pytest.mark.parametrize("drop_last, sizes", [(False, [5, 5, 3]), (True, [5, 5])])
def test_length_and_last_batch(drop_last, sizes):
    batches = loader(numbered_split(13), torch.Tensor.float, batch_size=5, drop_last=drop_last)
    assert [len(y) for _, y in batches] == sizes and len(batches) == len(sizes) and batches.batch_size == 5


def test_stopping_early_leaves_no_thread_behind():
    import threading

    before = threading.active_count()
    for _ in loader(Files(numbered_split(29)), torch.Tensor.float, batch_size=3):
        break
    assert threading.active_count() == before


@pytest.mark.parametrize("batch_size", [0, -3, 2.0, True])
def test_wrong_batch_size_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        loader(numbered_split(5), torch.Tensor.float, batch_size=batch_size)


def test_an_empty_split_and_an_empty_epoch_are_refused():
    with pytest.raises(ValueError, match="empty split"):
        loader(numbered_split(5).subset(torch.tensor([])), torch.Tensor.float)
    with pytest.raises(ValueError, match="no batch would be left"):
        loader(numbered_split(5), torch.Tensor.float, batch_size=7, drop_last=True)


# --- augmentation ----------------------------------------------------------------------------------------------


def distinct(pictures):
    return len(pictures.flatten(1).unique(dim=0))


def test_each_picture_of_a_batch_has_its_own_draw():
    copies = pictures_of(1, side=211).expand(97, -1, -1, -1).contiguous()
    assert distinct(flip(copies, seeded())) == 2
    assert distinct(flip_vertical(copies, seeded())) == 2
    assert distinct(rotate(copies, seeded())) == 4
    assert distinct(Chain((flip, rotate))(copies, seeded())) == 8  # the symmetries of a square
    assert distinct(Crop(23)(copies, seeded())) == 97
    assert distinct(Crop(23, scale=(1, 1), ratio=(1, 1))(copies, seeded())) == 1


def test_through_the_loader_too_and_anew_in_each_epoch():
    split = PictureSplit(pictures_of(1, side=211).repeat(97, 1, 1, 1), torch.zeros(97), ("",) * 97)
    batches = loader(split, torch.Tensor.float, batch_size=97, augment=Crop(23), generator=seeded())
    (first, _), (second, _) = next(iter(batches)), next(iter(batches))
    assert distinct(torch.cat([first, second])) == 194


def test_flips_mirror_about_half_of_the_pictures_and_leave_the_others():
    pictures = pictures_of(997, side=7)
    for augment, axis in ((flip, -1), (flip_vertical, -2)):
        out = augment(pictures, seeded(3))
        mirrored = (out == pictures.flip(axis)).flatten(1).all(1)
        same = (out == pictures).flatten(1).all(1)
        assert (mirrored ^ same).all() and 430 < mirrored.sum() < 568  # 4.4 standard deviations


def test_rotation_turns_by_each_quarter_equally_often():
    pictures = pictures_of(997, side=7)
    out = rotate(pictures, seeded(3))
    turned = [(out == torch.rot90(pictures, k, (2, 3))).flatten(1).all(1) for k in range(4)]
    assert (sum(t.int() for t in turned) == 1).all()
    assert all(190 < t.sum() < 309 for t in turned)


def test_rotation_of_oblong_pictures_is_refused():
    with pytest.raises(ValueError, match="square"):
        rotate(torch.zeros(2, 3, 5, 7, dtype=torch.uint8), seeded())


def test_crop_is_torchvisions_resized_crop_of_the_same_boxes():
    pictures = pictures_of(11, side=61)
    boxes = Crop(29).boxes(11, 61, 61, seeded(2))
    got = resized_boxes(pictures, boxes, 29)
    for picture, box, mine in zip(pictures, boxes.tolist(), got, strict=True):
        assert torch.equal(tv.resized_crop(picture, *box, size=[29, 29], antialias=True), mine)


def test_crop_of_the_whole_picture_at_its_own_size_changes_nothing():
    pictures = pictures_of(5, side=31)
    assert torch.equal(Crop(31, scale=(1, 1), ratio=(1, 1))(pictures, seeded()), pictures)


def test_boxes_lie_inside_and_keep_to_scale_and_ratio():
    top, left, height, width = Crop(1, scale=(0.2, 0.6), ratio=(0.5, 1.5)).boxes(997, 211, 307, seeded()).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 211).all() and (left + width <= 307).all()
    for start, length, whole in ((top, height, 211), (left, width, 307)):  # up to both borders
        assert ((start == 0) & (length < whole - 9)).any()
        assert ((start + length == whole) & (length < whole - 9)).any()
    share = height * width / (211 * 307)
    assert 0.19 < share.min() < 0.21 and 0.59 < share.max() < 0.61
    assert 0.49 < (width / height).min() < 0.52 and 1.45 < (width / height).max() < 1.52


def test_ratio_is_as_often_below_1_as_above():
    _, _, height, width = Crop(1, scale=(0.05, 0.05), ratio=(0.25, 4)).boxes(1999, 503, 503, seeded()).T
    assert 900 < (width > height).sum() < 1099  # 4.4 standard deviations; uniform in width / height gives 1,599


def test_boxes_are_distributed_as_torchvisions():
    crop = RandomResizedCrop(1)
    torch.manual_seed(0)
    picture = torch.zeros(3, 101, 173)
    params = [crop.make_params([picture]) for _ in range(1500)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in params]).double()
    ours = Crop(1).boxes(1500, 101, 173, seeded()).double()
    error = (theirs.var(0) / 1500 + ours.var(0) / 1500).sqrt()
    assert ((theirs.mean(0) - ours.mean(0)).abs() < 4 * error).all()
    assert ((theirs.std(0) / ours.std(0) - 1).abs() < 0.1).all()


@pytest.mark.parametrize("height, width, box", [(10, 997, [0, 492, 10, 13]), (997, 10, [492, 0, 13, 10])])
def test_where_no_box_fits_the_middle_is_taken(height, width, box):
    assert Crop(1, scale=(1, 1)).boxes(2, height, width, seeded()).tolist() == [box, box]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_generator_alone_decides(augment):
    pictures = pictures_of(23)
    before = pictures.clone()
    torch.manual_seed(0)
    first = augment(pictures, seeded(9))
    torch.manual_seed(1)
    assert torch.equal(augment(pictures, seeded(9)), first)
    assert not torch.equal(augment(pictures, seeded(10)), first)
    assert torch.equal(pictures, before) and first.dtype == torch.uint8


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_draw_belongs_to_the_row_and_not_to_the_content(augment):
    pictures = pictures_of(23)
    other = pictures.clone()
    other[5] = 0
    rows = torch.arange(23) != 5
    assert torch.equal(augment(pictures, seeded(4))[rows], augment(other, seeded(4))[rows])


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_grey_pictures_are_augmented_once_with_the_same_answer(augment):
    grey = pictures_of(23, channels=1).expand(-1, 3, -1, -1)
    got = augment(grey, seeded(6))
    assert torch.equal(got, augment(grey.contiguous(), seeded(6))) and got.stride(1) == 0


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_augmentations_survive_pickling_and_copying(augment):
    pictures = pictures_of(7)
    for twin in (pickle.loads(pickle.dumps(augment)), copy.deepcopy(augment)):
        assert torch.equal(twin(pictures, seeded()), augment(pictures, seeded()))


@pytest.mark.parametrize(
    "settings", [{"scale": (0, 1)}, {"scale": (0.5, 0.2)}, {"ratio": (2, 1)}, {"size": 0}, {"size": 2.5}, {"scale": 5}]
)
def test_impossible_crops_are_refused(settings):
    with pytest.raises(ValueError, match="rising pairs"):
        Crop(**{"size": 5, **settings})


# --- what a split may be ---------------------------------------------------------------------------------------


def test_arrays_of_numpy_become_a_split():
    pictures, labels = pictures_of(7), torch.arange(7) % 3
    split = PictureSplit(pictures.numpy()[:, :, ::-1].copy()[:, :, ::-1], labels.numpy(), [f"{i}" for i in range(7)])
    assert torch.equal(split.pictures, pictures) and torch.equal(split.labels, labels) and split.names[6] == "6"
    part = split.subset(np.array([5, 2]))
    assert torch.equal(part.pictures, pictures[[5, 2]]) and part.names == ("5", "2")


@pytest.mark.parametrize(
    "pictures, labels, names, words",
    [
        (pictures_of(7), torch.arange(5), ("",) * 7, "7 pictures, 5 labels, 7 names"),
        (pictures_of(7), torch.arange(11), ("",) * 7, "7 pictures, 11 labels, 7 names"),
        (pictures_of(7), torch.arange(7), ("",) * 3, "7 pictures, 7 labels, 3 names"),
        (pictures_of(7).float(), torch.arange(7), ("",) * 7, "torch.float32"),
        (pictures_of(7).movedim(1, 3), torch.arange(7), ("",) * 7, "channels first"),
        (pictures_of(7, channels=1), torch.arange(7), ("",) * 7, "grey"),
    ],
)
def test_columns_that_do_not_fit_are_refused(pictures, labels, names, words):
    with pytest.raises(ValueError, match=f"{words}.*|.*expected.*{words}"):
        PictureSplit(pictures, labels, names)


@pytest.mark.parametrize("rows", [[0, 11], [-1], torch.ones(11) > 0, [0.5], [[1, 2]]])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises(ValueError, match="rows"):
        numbered_split(11).subset(rows)


def test_class_names_are_no_split():
    part = numbered_split(5)
    with pytest.raises(ValueError, match="got test=.*three splits"):
        Splits(part, part, ("a", "b"), ())


def test_a_subset_of_any_dataset_is_a_split_of_it():
    split = Examples(OneByOne(numbered_split(11))).subset([7, 2])
    assert (
        len(split) == 2 and split[0][0].unique().tolist() == [7] and split.batch(torch.tensor([1]))[1].tolist() == [2]
    )


@pytest.mark.parametrize("example", ["x", (1, 2, 3), ("picture", 1), (torch.zeros(3, 5, 5), "cat"), None])
def test_a_dataset_of_something_else_is_named(example):
    class Odd(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return example

    with pytest.raises(ValueError, match="row 0.*expected \\(picture"):
        next(iter(loader(Odd(), torch.Tensor.float)))


@pytest.mark.parametrize(
    "preprocess", [lambda p: p[0].float(), lambda p: p.float().tolist(), lambda p: p.float().mean()]
)
@pytest.mark.parametrize("kind", [lambda s: s, OneByOne])
def test_a_preprocess_that_loses_the_batch_is_named(preprocess, kind):
    with pytest.raises(ValueError, match="from preprocess for"):
        next(iter(loader(kind(numbered_split(5)), preprocess, batch_size=5)))


# --- drawn by weight -------------------------------------------------------------------------------------------


def test_rows_are_drawn_by_their_weights_with_repetition():
    weights = torch.tensor([0.0, 1, 2, 5, 0, 3, 0])
    batches = loader(numbered_split(7), torch.Tensor.float, batch_size=3, weights=weights, generator=seeded())
    epochs = [seen(batches) for _ in range(999)]
    assert all(len(epoch) == 7 for epoch in epochs) and any(len(set(epoch)) < 5 for epoch in epochs)
    counts = torch.tensor([row for epoch in epochs for row in epoch]).bincount(minlength=7).double()
    expected = 999 * 7 * weights.double() / weights.sum()
    assert (counts[weights == 0] == 0).all()
    chi_squared = ((counts - expected)[weights > 0].square() / expected[weights > 0]).sum()
    assert chi_squared < 16.3  # 0.999 of a chi-squared with 3 degrees of freedom


@pytest.mark.parametrize("scale", [1e-320, 1e308])
def test_only_the_ratios_of_weights_count(scale):
    weights = torch.tensor([0.0, 1, 1, 0, 1], dtype=torch.float64) * scale
    rows = seen(loader(numbered_split(5), torch.Tensor.float, batch_size=5, weights=weights, generator=seeded(1)))
    assert len(rows) == 5 and set(rows) <= {1, 2, 4} and len(set(rows)) > 1


def test_classes_come_equally_often_with_the_weights_of_the_docstring():
    labels = torch.tensor([0] * 29 + [1] * 2)
    split = PictureSplit(pictures_of(31), labels, ("",) * 31)
    weights = 1 / labels.bincount()[labels]
    batches = loader(split, torch.Tensor.float, batch_size=31, weights=weights.numpy(), generator=seeded())
    share = torch.cat([y for _ in range(97) for _, y in batches]).double().mean()
    assert abs(share - 0.5) < 0.05  # 5 standard deviations


@pytest.mark.parametrize("used", [0, 1, 2])
def test_draws_by_weight_go_on_within_an_epoch(used):
    make = lambda seed, w: loader(  # noqa: E731
        numbered_split(13), torch.Tensor.float, batch_size=4, weights=w, augment=Crop(3), generator=seeded(seed)
    )
    weights = torch.arange(13.0)
    whole, resumed = make(7, weights), make(8, weights)
    list(whole)
    going = iter(whole)
    for _ in range(used):
        next(going)
    resumed.load_state_dict(whole.state_dict())
    assert seen(resumed) == seen(going) and seen(resumed) == seen(whole)
    for other in (weights.flip(0), None):
        with pytest.raises(ValueError, match="loader with weights="):
            make(7, other).load_state_dict(whole.state_dict())


@pytest.mark.parametrize("weights", [[1.0] * 4, [-1.0] + [1] * 4, [0.0] * 5, [float("nan")] * 5, [], [[1.0] * 5], 3])
def test_weights_that_cannot_be_drawn_by_are_refused(weights):
    with pytest.raises(ValueError, match="weights.*expected one for each of the 5"):
        loader(numbered_split(5), torch.Tensor.float, weights=weights)


def test_the_place_of_other_examples_is_refused():
    split = numbered_split(7)
    state = loader(split, torch.Tensor.float).state_dict()
    others = (
        replace(split, labels=split.labels.flip(0)),
        replace(split, names=tuple("abcdefg")),
        replace(split, pictures=255 - split.pictures),
    )
    for other in others:
        with pytest.raises(ValueError, match="loader with data="):
            loader(other, torch.Tensor.float).load_state_dict(state)
    loader(replace(split), torch.Tensor.float).load_state_dict(state)


# --- work ahead of time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth, budget, price", [(5, 10**9, 1), (100, 7, 2), (1, 10**9, 1), (100, 3, 7)])
def test_no_more_is_ahead_than_depth_and_budget_allow(depth, budget, price):
    begun = []
    most = max(1, min(depth, budget // price))
    for i, got in enumerate(
        ahead(
            lambda i: begun.append(i) or i * i, range(23), threads=3, depth=depth, cost=lambda i: price, budget=budget
        )
    ):
        assert got == i * i and len(begun) <= i + 1 + most
    assert sorted(begun) == list(range(23))


def test_an_error_ahead_of_time_comes_at_its_turn():
    work = ahead(lambda i: 1 // (5 - i), range(9), threads=2, depth=9, cost=lambda i: 1, budget=99)
    assert [next(work) for _ in range(5)] == [0, 0, 0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(work)


@pytest.mark.parametrize(
    "settings",
    [{"augment": "flip"}, {"augment": lambda p, g: p[:1]}, {"augment": lambda p, g: None}, {"generator": 5},
     {"preprocess": None}, {"weights": "abcde"}, {"split": None}],
)  # fmt: skip
def test_what_is_no_function_or_loses_pictures_is_named(settings):
    settings = {"split": numbered_split(5), "preprocess": torch.Tensor.float} | settings
    split, preprocess = settings.pop("split"), settings.pop("preprocess")
    with pytest.raises(ValueError, match="expected"):
        next(iter(loader(split, preprocess, **settings)))


@pytest.mark.parametrize("names", ["abcde", None, (1, 2, 3, 4, 5)])
def test_names_are_texts(names):
    with pytest.raises(ValueError, match="got names=.*expected one text for each"):
        PictureSplit(pictures_of(5), [0, 1, 0, 1, 0], names)


@pytest.mark.parametrize("labels", [np.array(list("abcde")), None, 3])
def test_labels_are_numbers(labels):
    with pytest.raises(ValueError, match="labels"):
        PictureSplit(pictures_of(5), labels, ("",) * 5)
