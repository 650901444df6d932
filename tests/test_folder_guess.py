"""image_folder.load(guess=True): folders of other people, each read in the way that makes sense, and said in notes."""

import pytest
from test_image_folder import one_folder, put

from sftlib.datasets import image_folder

HOW = {"size": 5, "guess": True, "allow_missing": True, "skip_broken": True}


def names_by_class(data):
    found = {}
    for part in (data.train, data.val, data.test):
        for name, k in zip(part.names, part.labels.tolist(), strict=True):
            found.setdefault(data.classes[k], set()).add(name)
    return found


def grid(root, outer, inner, n=3, seed=0):
    """root/OUTER/INNER/0 … n-1.png"""
    for a, first in enumerate(outer):
        for b, second in enumerate(inner):
            for i in range(n):
                put(root / first / second / f"{i}.png", seed=seed + 10_007 * a + 101 * b + i)
    return root


def test_a_folder_of_classes_is_read_as_without_guessing(tmp_path):
    one_folder(tmp_path)
    data, plain = image_folder.load(tmp_path, **HOW), image_folder.load(tmp_path, size=5)
    assert data.notes == () and data.classes == plain.classes and data.train.names == plain.train.names


def test_styles_of_the_same_things_give_the_things_as_classes(tmp_path):
    styles, things = ("art", "cartoon", "photo", "sketch"), ("dog", "elephant", "giraffe", "guitar", "horse", "house")
    data = image_folder.load(grid(tmp_path, styles, things), **HOW)
    assert data.classes == things and len(data.train) + len(data.val) + len(data.test) == 72
    assert names_by_class(data)["dog"] == {f"{style}/dog/{i}.png" for style in styles for i in range(3)}
    assert data.notes == (
        "art, cartoon, photo, sketch each hold the same 6 folders, taken as the classes: "
        "dog, elephant, giraffe, guitar, horse, house",
    )


def test_one_style_that_lacks_a_thing_leaves_the_outer_folders_as_classes_and_says_that_others_lie_within(tmp_path):
    grid(tmp_path, ("art", "photo"), ("dog", "horse"))
    for path in (tmp_path / "art" / "dog").iterdir():
        path.unlink()
    data = image_folder.load(tmp_path, **HOW)
    assert data.classes == ("art", "photo")
    assert data.notes == ("9 picture(s) lie in folders within a class, as art/horse; groups=… can keep each whole",)


@pytest.mark.parametrize(
    "tops, splits",
    [
        (("train", "val"), ("train", "val")),
        (("training_set", "test_set"), ("train", "test")),
        (("TRAIN", "TEST"), ("train", "test")),
        (("seg_train", "seg_test"), None),
        (("Training-Images", "Validation-Images", "Test-Images"), ("train", "val", "test")),
        (("train", "dev", "holdout"), ("train", "val", "test")),
    ],
)
def test_parts_under_their_many_names(tmp_path, tops, splits):
    data = image_folder.load(grid(tmp_path, tops, ("cat", "dog")), **HOW)
    assert data.classes == ("cat", "dog")
    if splits is None:  # a name of its own: pooled, for all hold the same folders
        assert len(data.train) and len(data.val) and len(data.test)
        return
    for split in ("train", "val", "test"):
        part = getattr(data, split)
        assert len(part) == (6 if split in splits else 0)
        assert {name.split("/")[0] for name in part.names} <= {tops[splits.index(split)] if split in splits else ""}
    assert data.notes == (f"parts that are given: {', '.join(sorted(splits))}",)


def test_folders_around_the_rest_are_passed_through_also_within_parts(tmp_path):
    grid(tmp_path / "archive" / "v2" / "train" / "images", (".",), ("cat", "dog"))
    grid(tmp_path / "archive" / "v2" / "val" / "val", (".",), ("cat", "dog"), seed=777)
    data = image_folder.load(tmp_path, **HOW)
    assert data.classes == ("cat", "dog") and (len(data.train), len(data.val)) == (6, 6)
    assert data.train.names[0] == "archive/v2/train/images/cat/0.png"
    assert "archive lies around all others" in data.notes


def test_a_part_of_one_class_is_not_taken_for_a_folder_around_the_rest(tmp_path):
    grid(tmp_path / "train", ("cat", "dog"), ("a", "b"))
    grid(tmp_path / "test", ("cat",), ("a", "b"), seed=777)
    data = image_folder.load(tmp_path, **HOW)
    assert data.classes == ("a", "b") and len(data.test) == 6  # as in train, so also here
    other = tmp_path / "other"
    grid(other / "train", ("cat", "dog"), ("a1",), seed=333)
    grid(other / "test", ("cat",), ("a7",), seed=777)
    assert image_folder.load(other, **HOW).classes == ("cat", "dog")


def test_train_alone_is_one_folder_to_be_split(tmp_path):
    grid(tmp_path, ("train",), ("cat", "dog"), n=20)
    for i in range(3):
        put(tmp_path / "test1" / f"{i}.png")
    data = image_folder.load(tmp_path, **HOW)
    assert data.classes == ("cat", "dog") and (len(data.train), len(data.val), len(data.test)) == (28, 6, 6)
    assert "left out, for nothing tells their class: 3 picture(s), test1/0.png, test1/1.png, test1/2.png" in data.notes


@pytest.mark.parametrize("form", ["{}.{}.jpg", "{}_{}.PNG", "{} ({}).png", "{}-0{}.webp"])
def test_words_before_the_numbers_in_names_are_classes_where_all_lie_in_one_folder(tmp_path, form):
    for k, name in enumerate(("cat", "big dog")):
        for i in range(10):
            put(tmp_path / "all" / form.format(name, i), seed=31 * k + i)
    data = image_folder.load(tmp_path, **HOW)
    assert data.classes == ("big dog", "cat") and {len(v) for v in names_by_class(data).values()} == {10}
    assert data.notes[-1].endswith("are taken as the classes: big dog, cat")


@pytest.mark.parametrize(
    "names", [("IMG_{}", "DSC_{}"), ("cat{}",), ("{}", "cat{}"), tuple(f"{c}{{}}" for c in "abcd")]
)
def test_names_that_tell_no_class_are_refused(tmp_path, names):
    for k, name in enumerate(names):
        for i in range(10 if len(names) < 4 else 9):
            put(tmp_path / f"{name.format(i)}.png", seed=31 * k + i)
    with pytest.raises(ValueError, match="no picture in any folder of a class"):
        image_folder.load(tmp_path, **HOW)


def test_strays_folders_without_pictures_and_masks(tmp_path):
    one_folder(tmp_path)
    put(tmp_path / "preview.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "1.xml").write_text("<a/>")
    data = image_folder.load(tmp_path, **HOW)
    assert data.classes == ("cat", "dog")
    assert data.notes == ("left out, for nothing tells their class: 1 picture(s), preview.png",)
    assert "annotations/1.xml" in data.ignored
    put(tmp_path / "images" / "1.png")
    put(tmp_path / "masks" / "1.png")
    with pytest.raises(ValueError, match="masks: stands beside the pictures"):
        image_folder.load(tmp_path, **HOW)


def test_parts_without_classes_and_two_folders_for_a_part_are_refused(tmp_path):
    for name in ("train", "test"):
        for i in range(5):
            put(tmp_path / "flat" / name / f"{i}.png")
    with pytest.raises(ValueError, match="test: the name of a part, not of a class"):
        image_folder.load(tmp_path / "flat", **HOW)
    grid(tmp_path / "two", ("train", "training_set", "val"), ("cat", "dog"))
    with pytest.raises(ValueError, match="training_set: a second folder for train"):
        image_folder.load(tmp_path / "two", **HOW)


def test_of_many_files_a_share_of_each_part_and_class_is_drawn_before_any_is_read(tmp_path, monkeypatch):
    grid(tmp_path, ("train", "val"), ("cat", "dog", "owl"), n=20)
    read, own = [], image_folder.read_bytes
    monkeypatch.setattr(image_folder, "read_bytes", lambda path: read.append(path) or own(path))
    data = image_folder.load(tmp_path, most=31, **HOW)
    assert len(read) == 31 == len(data.train) + len(data.val)
    counts = [part.labels.bincount(minlength=3).tolist() for part in (data.train, data.val)]
    assert all(n in (5, 6) for part in counts for n in part)
    assert data.notes[-1] == "31 of 120 pictures, drawn by part and class"
    again, other = (image_folder.load(tmp_path, most=31, seed=seed, **HOW) for seed in (0, 1))
    assert again.train.names == data.train.names != other.train.names
    assert image_folder.load(tmp_path, most=120, **HOW).notes == ("parts that are given: train, val",)
    with pytest.raises(ValueError, match="got most=0"):
        image_folder.load(tmp_path, most=0, **HOW)
