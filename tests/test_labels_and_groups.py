"""image_folder: what is a class and what is not, labels in a table, groups, broken files, odd names, odd bits."""

import os
import stat
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_folder import encoded, error_of, noise, one_folder, put, three_folders

from sftlib.datasets import decode as decoding
from sftlib.datasets import image_folder
from sftlib.datasets.decode import decode


def parts_of(splits):
    return splits.train, splits.val, splits.test


def names_in(splits):
    return [name for part in parts_of(splits) for name in part.names]


# --- folders that are no classes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tops",
    [
        ("training_set", "test_set"),
        ("train_images", "val_images"),
        ("Train2017", "val2017"),
        ("trainset", "testset"),
        ("dev", "test-data"),
        ("val", "test"),
    ],
)
@pytest.mark.parametrize("inside", ["classes", "pictures"])
def test_names_of_splits_are_no_classes(tmp_path, tops, inside):
    for s, top in enumerate(tops):
        for k, name in enumerate(("cat", "dog")):
            for i in range(3):
                folder = tmp_path / top / name if inside == "classes" else tmp_path / top
                put(folder / f"{k}{i}.png", seed=1000 * s + 10 * k + i)
    message = error_of(tmp_path)
    for top in tops:
        assert (
            f"{top}: the name of a split, not of a class: call the folders of the splits train, val and test" in message
        )


def test_train_and_test_without_classes_are_no_classes(tmp_path):
    for top in ("train", "test"):
        for i in range(4):
            put(tmp_path / top / f"{i}.png")
    assert "test: the name of a split" in error_of(tmp_path)


def test_a_test_set_beside_train_and_val_is_not_passed_over(tmp_path):
    put(three_folders(tmp_path, splits=("train", "val")) / "test_set" / "cat" / "0.png")
    assert "test_set: the name of a split" in error_of(tmp_path)


def test_folders_that_all_hold_the_same_folders_are_no_classes(tmp_path):
    three_folders(tmp_path, splits=("part1", "part2"))
    message = error_of(tmp_path)
    assert "part1: holds the same folders as those beside it" in message and "2 problem(s)" in message
    splits = image_folder.load(tmp_path, groups=lambda path: path, fractions=(0.5, 0.5, 0))
    assert splits.classes == ("part1", "part2")


@pytest.mark.parametrize("masks", ["masks", "Annotations", "labels"])
@pytest.mark.parametrize("top", ["", "train", "val"])
def test_masks_are_no_class(tmp_path, masks, top):
    if top:
        three_folders(tmp_path, splits=("train", "val"))
    for i in range(5):
        put(tmp_path / top / "images" / f"{i}.png")
        put(tmp_path / top / masks / f"{i}.png")
    assert f"{masks}: stands beside the pictures: masks or labels of them, no class" in error_of(tmp_path)


def test_classes_whose_names_only_resemble_those_are_classes(tmp_path):
    names = ("dataset", "images", "testosterone", "trainer", "with_mask")
    assert image_folder.load(one_folder(tmp_path, classes=names, n=3)).classes == names


def test_a_folder_around_the_classes_is_named(tmp_path):
    one_folder(tmp_path / "pictures")
    message = error_of(tmp_path)
    assert "one class only, pictures" in message
    assert f"are the classes the folders in {tmp_path}/pictures? Then load that" in message


# --- groups ----------------------------------------------------------------------------------------------------


def patients(root, classes=("cat", "dog"), n=7):
    """CLASS/PATIENT/0 … 2.png"""
    for k, name in enumerate(classes):
        for p in range(n):
            for i in range(3):
                put(root / name / f"{name}{p}" / f"{i}.png", seed=1000 * k + 10 * p + i)
    return root


def test_without_groups_folders_in_a_class_are_warned_of_and_with_them_they_stay_whole(tmp_path):
    patients(tmp_path)
    with pytest.warns(UserWarning, match="42 picture.*groups=lambda path: path.parent"):
        mixed = image_folder.load(tmp_path)
    owners = [{name.split("/")[1] for name in part.names} for part in parts_of(mixed)]
    assert owners[0] & (owners[1] | owners[2])
    for seed in range(5):
        splits = image_folder.load(tmp_path, groups=lambda path: path.parts[1], seed=seed)
        owners = [{name.split("/")[1] for name in part.names} for part in parts_of(splits)]
        assert sum(map(len, owners)) == 14 == len(set.union(*owners)) and min(map(len, owners)) >= 2
        assert len(names_in(splits)) == 42


def test_a_copy_ties_two_groups_together(tmp_path):
    put(patients(tmp_path) / "cat" / "cat0" / "copy.png", seed=10 * 5 + 2)  # cat5/2.png
    for seed in range(5):
        splits = image_folder.load(tmp_path, groups=lambda path: path.parts[1], seed=seed)
        holders = [p for p in parts_of(splits) if any("/cat0/" in n or "/cat5/" in n for n in p.names)]
        assert len(holders) == 1


def test_a_group_in_two_given_splits_is_a_problem(tmp_path):
    put(patients(tmp_path / "train") / ".." / "val" / "dog" / "dog3" / "x.png", seed=9000)
    put(tmp_path / "val" / "cat" / "cat9" / "x.png", seed=9001)
    assert "val/dog/dog3/x.png: group 'dog3' is in train too, with train/dog/dog3/0.png" in error_of(
        tmp_path, groups=lambda path: path.parts[2]
    )


def test_too_few_groups_are_named(tmp_path):
    patients(tmp_path, n=2)
    assert "cat: 2 distinct group(s), too few for 3 splits" in error_of(tmp_path, groups=lambda path: path.parts[1])


def test_groups_that_leave_a_class_out_of_a_split_are_named(tmp_path):
    one_folder(tmp_path, n=20)
    refused = 0
    for seed in range(8):  # all cats are in groups 0, 1, 2, which lie among eighteen more of dogs
        try:
            splits = image_folder.load(
                tmp_path,
                seed=seed,
                groups=lambda path: int(path.stem) % 3 if path.parts[0] == "cat" else int(path.stem),
            )
        except ValueError as error:
            refused += 1
            assert "has no picture of cat: too few groups; expected every class in every split" in str(error)
        else:
            assert all(set(part.labels.tolist()) == {0, 1} for part in parts_of(splits))
    assert refused > 0


@pytest.mark.parametrize("groups", [lambda p: None, lambda p: [1], lambda p: p.parts[7], 5, "patient"])
def test_groups_that_are_none_are_refused(tmp_path, groups):
    with pytest.raises(ValueError, match="groups.*expected"):
        image_folder.load(one_folder(tmp_path), groups=groups)


# --- labels in a table -----------------------------------------------------------------------------------------


def table(root, lines, name="labels.csv", head="file,label"):
    (root / name).write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def flat(root, n=9):
    for i in range(n):
        put(root / "pictures" / f"{i}.png", seed=i)
    return root


def test_labels_come_from_a_table(tmp_path):
    table(flat(tmp_path), [f"pictures/{i}.png,{(10, 9, 2)[i % 3]}" for i in range(9)])
    put(tmp_path / "pictures" / "unlabelled.png", seed=77)
    for labels in ("labels.csv", tmp_path / "labels.csv"):
        splits = image_folder.load(tmp_path, labels=labels)
        assert splits.classes == ("2", "9", "10") and splits.ignored == ("pictures/unlabelled.png",)
        for part in parts_of(splits):
            assert len(part) == 3
            for name, label in zip(part.names, part.labels.tolist(), strict=True):
                assert splits.classes[label] == str((10, 9, 2)[int(name.split("/")[1][0]) % 3])


def test_a_table_over_given_splits_leaves_them_as_they_are(tmp_path):
    lines = []
    for s, split in enumerate(("train", "val")):
        for i in range(4):
            put(tmp_path / split / f"{i}.png", seed=100 * s + i)
            lines.append(f'{split}/{i}.png,"a, {i % 2}"')
    table(tmp_path, lines, head="\ufeffFile,Label")
    splits = image_folder.load(tmp_path, labels="labels.csv")
    assert splits.classes == ("a, 0", "a, 1") and len(splits.train) == len(splits.val) == 4 and len(splits.test) == 0
    assert all(name.startswith("val/") for name in splits.val.names)
    table(tmp_path, [*lines, "other.png,a"])
    put(tmp_path / "other.png", seed=5)
    assert "other.png: lies in none of the folders train, val, test" in error_of(tmp_path, labels="labels.csv")


@pytest.mark.parametrize(
    "line, words",
    [
        ("pictures/10.png,a", "pictures/10.png: named in line 11, is no picture file"),
        ("pictures/3,a", "pictures/3: named in line 11, is no picture file"),
        ("pictures/3.png,c", "pictures/3.png: has two labels"),
        ("pictures/3.png,", "pictures/3.png: has no label in line 11"),
        ("../x.png,a", "expected a path below the folder"),
    ],
)
def test_a_line_that_fits_no_picture_is_named(tmp_path, line, words):
    table(flat(tmp_path), [*(f"pictures/{i}.png,{'ab'[i % 2]}" for i in range(9)), line])
    assert words in error_of(tmp_path, labels="labels.csv")


def test_a_name_between_quotes_may_hold_a_line_end_and_lines_are_still_counted(tmp_path):
    lines = []
    for i in range(9):
        put(tmp_path / f"a\nb, {i}.png", seed=i)
        lines.append(f'"a\nb, {i}.png",{"cat dog eel".split()[i % 3]}')
    table(tmp_path, lines)
    splits = image_folder.load(tmp_path, labels="labels.csv")
    assert sorted(sum((p.names for p in parts_of(splits)), ())) == [f"a\\nb, {i}.png" for i in range(9)]
    table(tmp_path, [*lines, "gone.png,cat"])
    assert "gone.png: named in line 20, is no picture file" in error_of(tmp_path, labels="labels.csv")


@pytest.mark.parametrize(
    "text", ["", "id,label\n1,a\n", "file;label\nx;a\n", "file,label,split\nx,a,b\n", "file,label\nx,a,b\n", '"', "\0,"]
)
def test_another_table_is_refused(tmp_path, text):
    (flat(tmp_path) / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match="expected"):
        image_folder.load(tmp_path, labels="labels.csv")


@pytest.mark.parametrize("labels", ["nowhere.csv", 5, {"a.png": "a"}])
def test_no_table_is_refused(tmp_path, labels):
    with pytest.raises(ValueError, match="labels=.*expected"):
        image_folder.load(flat(tmp_path), labels=labels)


# --- what cannot be read, and what is not there ----------------------------------------------------------------


def with_broken(root, n=23):
    one_folder(root)
    for i in range(n):
        (root / "cat" / f"zero{i}.jpg").touch()
    return root


def test_all_problems_are_on_the_error(tmp_path):
    with pytest.raises(ValueError, match="23 problem") as caught:
        image_folder.load(with_broken(tmp_path))
    assert len(caught.value.problems) == 23 and caught.value.problems["cat/zero22.jpg"] == "an empty file (0 bytes)"


@pytest.mark.parametrize("size", [None, 5])
def test_broken_files_are_skipped_on_demand(tmp_path, size):
    splits = image_folder.load(with_broken(tmp_path), size=size, skip_broken=True)
    assert len(splits.broken) == 23 and "cat/zero0.jpg: an empty file (0 bytes)" in splits.broken
    assert sorted(names_in(splits)) == sorted(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(7))
    assert "23 broken files left out" in repr(splits)
    clean = image_folder.load(one_folder(tmp_path / "clean"), size=size)
    for part, other in zip(parts_of(splits), parts_of(clean), strict=True):
        assert part.names == other.names and torch.equal(part.labels, other.labels)
        assert all(torch.equal(part[i][0], other[i][0]) for i in range(len(part)))


def test_skipping_leaves_no_class_out_silently(tmp_path):
    one_folder(tmp_path)
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "0.png").write_text("no picture")
    assert "emu: a class of which no picture can be read" in error_of(tmp_path, skip_broken=True)


def test_a_class_may_be_missing_from_val_and_test_on_demand_and_never_from_train(tmp_path):
    three_folders(tmp_path)
    put(tmp_path / "train" / "emu" / "0.png", seed=8000)
    (tmp_path / "test" / "emu").mkdir()
    assert "val/emu: missing" in error_of(tmp_path)
    splits = image_folder.load(tmp_path, allow_missing=True)
    assert splits.classes == ("cat", "dog", "emu") and len(splits.train) == 7 and len(splits.val) == 6
    put(tmp_path / "val" / "fox" / "0.png", seed=8001)
    assert "train/fox: missing" in error_of(tmp_path, allow_missing=True)


def test_a_rare_class_goes_to_train(tmp_path):
    put(one_folder(tmp_path) / "emu" / "0.png", seed=8000)
    assert "emu: 1 distinct" in error_of(tmp_path)
    assert "emu/0.png" in image_folder.load(tmp_path, allow_missing=True).train.names


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    one_folder(tmp_path)
    locked, real = tmp_path / "dog", os.stat
    listed = type(tmp_path).iterdir

    def iterdir(path):
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    assert "dog: cannot be opened (Permission denied)" in error_of(tmp_path)
    monkeypatch.undo()

    def no_look_inside(path, *args, **options):
        if str(path).startswith(f"{locked}{os.sep}"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", no_look_inside)
    assert "dog/0.png: cannot be opened (Permission denied)" in error_of(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(one_folder(tmp_path) / "cat" / "pipe.png")
    assert stat.S_ISFIFO(os.stat(tmp_path / "cat" / "pipe.png").st_mode)
    assert image_folder.load(tmp_path).ignored == ("cat/pipe.png",)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_names_obey_no_terminal(tmp_path):
    evil = "a\x1b[31m\nb\u202egnp\x07\x9b"
    one_folder(tmp_path, classes=("cat", evil))
    put(tmp_path / "cat" / f"{evil}.png", seed=8000)
    (tmp_path / "cat" / f"zero{evil}.png").touch()
    shown = r"a\x1b[31m\nb\u202egnp\x07\x9b"
    message = error_of(tmp_path)
    assert f"cat/zero{shown}.png: an empty file" in message and all(c.isprintable() or c == "\n" for c in message)
    splits = image_folder.load(tmp_path, skip_broken=True)
    assert splits.classes == (shown, "cat") and f"cat/{shown}.png" in names_in(splits)
    assert repr(splits).isprintable() and "\n" not in "".join(names_in(splits))


# --- what a file may hold --------------------------------------------------------------------------------------


def test_another_format_under_a_picture_s_name_starts_nothing(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: ran.append(a))
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: ran.append(a))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 7\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="no picture that can be read here"):
        decode(eps)
    (one_folder(tmp_path) / "cat" / "x.jpg").write_bytes(eps)
    assert "cat/x.jpg: no picture that can be read here" in error_of(tmp_path) and ran == []


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "TGA"])
def test_formats_that_are_read(file_format):
    got = decode(encoded(Image.new("RGB", (16, 11), (200, 100, 40)), file_format))
    assert got.shape == (11, 16, 3) and np.abs(got.astype(int) - (200, 100, 40)).max() < 9


def test_two_large_pictures_are_never_decoded_at_once(monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", 100)
    inside, most, lock = [], [], threading.Lock()
    whole = decoding._loaded

    def loaded(*args):
        with lock:
            inside.append(1)
            most.append(len(inside))
        try:
            return whole(*args)
        finally:
            inside.pop()

    monkeypatch.setattr(decoding, "_loaded", loaded)
    large = [encoded(Image.fromarray(noise(i, (401, 307, 3))), "PNG") for i in range(8)]
    assert len(list(decoding.in_threads(decode, large))) == 8 and max(most) == 1


def test_no_memory_is_no_damage(monkeypatch):
    def full(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(decoding, "_loaded", full)
    with pytest.raises(MemoryError):
        decode(encoded(Image.new("L", (3, 3)), "PNG"))


@pytest.mark.parametrize("size", [10**6, 4097, 0, True, 2.0, "7"])
def test_absurd_sizes_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match="size=.*expected the side of a picture"):
        image_folder.load(one_folder(tmp_path), size=size)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("side, reduced", [(67, 2), (31, 4), (150, 1)])
def test_a_jpeg_shrunk_while_it_is_decoded_is_the_same_picture(side, reduced, orientation):
    smooth = Image.fromarray(noise(3, (5, 7, 3))).resize((280, 200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth, "JPEG", quality=95, exif=exif)
    full = Image.fromarray(decode(data))
    whole = np.asarray(full.resize((side, side), Image.Resampling.BILINEAR, box=middle_square(full)))
    got = decode(data, side)
    assert np.abs(got.astype(int) - whole).mean() < (2 if reduced > 1 else 0.6)


def middle_square(image):
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    return left, top, left + short, top + short


def test_bits_scale_what_a_camera_of_fewer_bits_wrote():
    values = np.array([[0, 1, 8, 16, 2048, 4095]], np.uint16)
    got = decode(encoded(Image.fromarray(values), "PNG"), bits=12)[0, :, 0].tolist()
    assert got == [round(v * 255 / 4095) for v in values[0].tolist()]
    with pytest.raises(ValueError, match="a value of 4096, more than bits=12 hold"):
        decode(encoded(Image.fromarray(values + 1), "PNG"), bits=12)


def test_12_bits_in_16_are_warned_of(tmp_path):
    for k, name in enumerate(("cat", "dog")):
        for i in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            grey = np.random.default_rng(10 * k + i).integers(0, 4096, (11, 13)).astype(np.uint16)
            Image.fromarray(grey).save(tmp_path / name / f"{i}.png")
    with pytest.warns(UserWarning, match=r"at most 16 of 256 greys.*takes 12\)"):
        image_folder.load(tmp_path)
    splits = image_folder.load(tmp_path, bits=12)
    assert splits.train[0][0].max() > 240
    assert image_folder.load(tmp_path, bits=12, size=7).train.pictures.max() > 200


@pytest.mark.parametrize(
    "settings",
    [
        {"fractions": (0.8, 0.2)},
        {"fractions": (0.4, 0.3, 0.2, 0.1)},
        {"fractions": (float("nan"), 0.5, 0.5)},
        {"fractions": "abc"},
        {"bits": 7},
        {"bits": 12.0 + 0.5},
        {"seed": -1},
        {"seed": "x"},
        {"memory_bytes": -1},
        {"memory_bytes": "1 GB"},
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.*expected"):
        image_folder.load(one_folder(tmp_path), **settings)
