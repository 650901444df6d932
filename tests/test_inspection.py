"""What a look at pictures says: each planted fault is found, and clean pictures are left in peace."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scripts import table

from sftlib.datasets import PictureSplit, Splits, image_folder
from sftlib.datasets.drawn_shapes import CLASSES, draw
from sftlib.features import linear_probe, out_of_fold
from sftlib.inspection import Remark, Remarks, copies, likely_label_errors, look_over, write_list
from sftlib.selection import probe_accuracy

LUMA = (0.299, 0.587, 0.114)


def shapes(n, seed=0):
    return [Image.fromarray(draw(i % 5, np.random.default_rng([seed, i]))) for i in range(n)]


def tensor(images):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def splits(train, val, test, labels=None):
    """Lists of pictures -> Splits; label i mod 5"""
    parts = []
    for name, images in (("train", train), ("val", val), ("test", test)):
        own = [i % 5 for i in range(len(images))] if labels is None else labels[name]
        names = tuple(f"{name}/{i}.png" for i in range(len(images)))
        parts.append(PictureSplit(tensor(images), torch.tensor(own), names))
    return Splits(*parts, CLASSES)


def compressed(image, quality, tmp_path):
    image.save(tmp_path / "x.jpg", quality=quality)
    return Image.open(tmp_path / "x.jpg").convert("RGB")


# --- copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda image, folder: image.copy(),
        lambda image, folder: compressed(image, 60, folder),
        lambda image, folder: image.resize((40, 40)).resize((64, 64)),
        lambda image, folder: image.point(lambda v: int(0.7 * v + 20)),
        lambda image, folder: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image, folder: image.convert("L").convert("RGB"),
    ],
    ids=["same", "jpeg", "scaled", "darker", "mirrored", "grey"],
)
def test_a_copy_is_found_whatever_was_done_to_it_and_no_other_pair(change, tmp_path):
    images = shapes(61)
    images.insert(7, change(images[43], tmp_path))
    assert [(i, j) for i, j, _ in copies(tensor(images))] == [(7, 44)]


def test_distances_are_shares_of_that_of_two_pictures_at_random_and_come_nearest_first():
    images = shapes(31)
    noisy = Image.fromarray(np.clip(np.array(images[3]) + np.random.default_rng(0).normal(0, 25, (64, 64, 3)), 0, 255)
                            .astype(np.uint8))  # fmt: skip
    found = copies(tensor([*images, images[3], noisy]), close=0.5)
    by_pair = {(i, j): d for i, j, d in found}
    assert found[0][:2] == (3, 31) and by_pair[3, 31] == pytest.approx(0, abs=1e-3)
    shown = [round(d, 2) for *_, d in found]  # nearest first, as far as two digits tell
    assert 0.005 < by_pair[3, 32] < 0.5 and shown == sorted(shown)
    naive = [(np.array(i, float) @ LUMA).reshape(16, 4, 16, 4).mean((1, 3)).ravel() for i in images]
    naive = [(v - v.mean()) / v.std(ddof=1) for v in naive]
    usual = np.median([np.linalg.norm(a - b) for i, a in enumerate(naive) for b in naive[i + 1 :]])
    v = (np.array(noisy, float) @ LUMA).reshape(16, 4, 16, 4).mean((1, 3)).ravel()
    distance = np.linalg.norm((v - v.mean()) / v.std(ddof=1) - naive[3])
    assert by_pair[3, 32] == pytest.approx(distance / usual, rel=0.1)  # the two copies move the median a little


def test_pictures_of_one_grey_are_no_copies_of_each_other():
    images = [*shapes(11), *(Image.new("RGB", (64, 64), (v, v, v)) for v in (0, 90, 255))]
    assert copies(tensor(images)) == []
    assert copies(torch.full((3, 3, 40, 40), 7, dtype=torch.uint8)) == []


@pytest.mark.parametrize("wrong", [torch.zeros(5, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_what_is_no_batch_of_pictures_is_refused(wrong):
    with pytest.raises(ValueError, match="expected uint8"):
        copies(wrong)


# --- the overview ------------------------------------------------------------------------------------------------


def test_clean_pictures_of_enough_classes_are_left_in_peace():
    remarks = look_over(splits(shapes(105), shapes(25, 1), shapes(25, 2)))
    assert remarks == [] and remarks.pictures == 155 and "nothing odd" in str(remarks)


def test_dark_bright_blurred_and_empty_pictures_are_named():
    train = shapes(105)
    train[0] = Image.fromarray((np.array(train[0]) * 0.15).astype(np.uint8))
    train[5] = Image.fromarray((250 + np.array(train[5]) // 64).astype(np.uint8))
    train[10] = train[10].filter(ImageFilter.GaussianBlur(8))
    train[15] = Image.new("RGB", (64, 64), (120, 120, 120))
    remarks = look_over(splits(train, shapes(25, 1), shapes(25, 2)))
    assert {r.file for r in remarks.of("dark")} == {"train/0.png"}
    assert {r.file for r in remarks.of("bright")} == {"train/5.png"}
    assert {r.file for r in remarks.of("blurred")} == {"train/10.png"}
    assert "train/15.png" in {r.file for r in remarks.of("little in it")}
    assert {r.file for r in remarks} <= {f"train/{i}.png" for i in (0, 5, 10, 15)}


def test_copies_are_told_by_where_they_lie_and_what_is_tested_stays():
    train, val, test = shapes(105), shapes(25, 1), shapes(25, 2)
    train[1], train[6], val[2] = train[11].copy(), test[1].copy(), train[3].copy()
    remarks = look_over(splits(train, val, test))
    assert [(r.kind, r.file, r.other) for r in remarks] == [
        ("copy in another class", "train/3.png", "val/2.png"),
        ("copy in another part", "train/6.png", "test/1.png"),
        ("copy", "train/11.png", "train/1.png"),
    ]


def test_small_and_rare_classes_are_named_with_their_numbers():
    labels = {"train": [0] * 120 + [1] * 40 + [2] * 40 + [3] * 6 + [4] * 12, "val": [0, 1, 2, 3, 4],
              "test": [0, 1, 2, 3, 4]}  # fmt: skip
    remarks = look_over(splits(shapes(218), shapes(5, 1), shapes(5, 2), labels))
    kinds = [(r.kind, r.file) for r in remarks]
    assert kinds == [("small class", "star"), ("small class", "triangle"), ("rare class", "star")]
    assert remarks[0].words == "8 pictures" and remarks[1].words == "14 pictures"
    assert "most frequent class has 122" in remarks.of("rare class")[0].words


def test_odd_sizes_and_shapes_come_from_the_files(tmp_path):
    for i, image in enumerate(shapes(60)):
        folder = tmp_path / CLASSES[i % 5]
        folder.mkdir(exist_ok=True)
        image = image.resize((600, 600)) if i == 7 else image.resize((200, 40)) if i == 8 else image
        image.save(folder / f"{i}.png")
    data = image_folder.load(tmp_path, size=48)
    remarks = look_over(data, tmp_path)
    assert {r.file for r in remarks.of("odd shape")} == {f"{CLASSES[3]}/8.png"}
    assert f"{CLASSES[2]}/7.png" in {r.file for r in remarks.of("odd size")}
    assert not look_over(data).of("odd size", "odd shape")


def test_pictures_in_files_are_refused(tmp_path):
    for i, image in enumerate(shapes(20)):
        (tmp_path / CLASSES[i % 5]).mkdir(exist_ok=True)
        image.save(tmp_path / CLASSES[i % 5] / f"{i}.png")
    with pytest.raises(ValueError, match="expected them in memory"):
        look_over(image_folder.load(tmp_path))


def test_remarks_are_a_table_that_escapes_what_files_are_called():
    remarks = Remarks([Remark("dark", "<b>x</b>.png", "score 0.1"), Remark("copy", "y", "in train")], pictures=3)
    assert list(remarks.kinds) == ["copy", "dark"] and "&lt;b&gt;x" in remarks._repr_html_()
    assert "<b>x" not in remarks._repr_html_()
    with pytest.raises(ValueError, match="got kind='odd'"):
        Remark("odd", "x", "y")


# --- labels --------------------------------------------------------------------------------------------------------


def test_confident_learning_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7], [0.62, 0.38]])
    y = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    # t_0 = (.9 + .7 + .2) / 3 = .6, t_1 = (.6 + .9 + .7 + .38) / 4 = .645
    found = likely_label_errors(p, y)
    assert found.rows.tolist() == [2, 6] and found.instead.tolist() == [1, 0]
    assert found.margin.tolist() == pytest.approx([0.6, 0.24], abs=1e-6)


def test_a_class_that_is_never_sure_asks_for_less_than_one_half():
    p = torch.tensor([[0.55, 0.45], [0.52, 0.48], [0.9, 0.1], [0.95, 0.05], [0.9, 0.1]])
    found = likely_label_errors(p, torch.tensor([1, 1, 0, 0, 0]))
    assert len(found) == 0  # t_0 = .917: no row labelled 1 reaches it
    p[0] = torch.tensor([0.05, 0.95])
    found = likely_label_errors(p, torch.tensor([0, 1, 0, 0, 0]))
    assert found.rows.tolist() == [0] and len(found) == 1


def test_planted_wrong_labels_are_found_far_more_often_than_by_chance():
    g = torch.Generator().manual_seed(3)
    truth = torch.arange(200) % 5
    z = torch.randn(5, 11, generator=g)[truth] * 2 + torch.randn(200, 11, generator=g)
    y, wrong = truth.clone(), torch.randperm(200, generator=g)[:10]
    y[wrong] = (truth[wrong] + 1) % 5
    found = likely_label_errors(out_of_fold(z, y, l2=0.1), y)
    caught = set(found.rows.tolist()) & set(wrong.tolist())
    assert len(caught) >= 6 and len(found) <= 15  # of 10 among 200
    assert all(truth[r] == k for r, k in zip(found.rows, found.instead, strict=True) if int(r) in caught)


def test_out_of_fold_no_probe_sees_the_row_that_it_judges():
    g = torch.Generator().manual_seed(1)
    z, y = torch.randn(37, 50, generator=g), torch.arange(37) % 3
    p = out_of_fold(z, y, folds=4, l2=1e-3)  # more features than rows: a probe knows what it saw by heart
    seen = linear_probe(z, y, l2=1e-3)(z).argmax(1)
    assert (seen == y).all() and (p.argmax(1) == y).double().mean() < 0.7
    assert torch.allclose(p.sum(1), torch.ones(37, dtype=torch.float64))
    assert probe_accuracy(z, y, folds=4) == (p.argmax(1) == y).double().mean().item()


# --- the list ------------------------------------------------------------------------------------------------------


def test_the_list_is_what_image_folder_takes_and_leaves_out_what_it_should(tmp_path):
    for i, image in enumerate(shapes(40)):
        (tmp_path / "pictures" / CLASSES[i % 5]).mkdir(exist_ok=True, parents=True)
        image.save(tmp_path / "pictures" / CLASSES[i % 5] / f"é, {i}.png")
    data = image_folder.load(tmp_path / "pictures", size=40)
    out = [data.train.names[0], data.test.names[1]]
    assert write_list(tmp_path / "keep.csv", data, leave_out=out) == 38
    rows = table(tmp_path / "keep.csv")
    assert [*rows[0]] == ["file", "label"] and all(r["file"].split("/")[0] == r["label"] for r in rows)
    again = image_folder.load(tmp_path / "pictures", size=40, labels=tmp_path / "keep.csv")
    names = {n for part in (again.train, again.val, again.test) for n in part.names}
    assert len(names) == 38 and not names & set(out) and again.classes == data.classes
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 40
    with open(tmp_path / "keep.csv", encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["file", "label"]


def test_a_list_without_a_class_or_of_unknown_names_is_refused_and_not_written(tmp_path):
    data = splits(shapes(10), shapes(5), shapes(5))
    stars = [n for part in (data.train, data.val, data.test) for n, k in zip(part.names, part.labels, strict=True)
             if data.classes[k] == "star"]  # fmt: skip
    for out, words in ((stars, "all pictures of 'star'"), (["nothing.png"], "'nothing.png' to leave out")):
        with pytest.raises(ValueError, match=words):
            write_list(tmp_path / "keep.csv", data, leave_out=out)
    assert list(tmp_path.iterdir()) == []
