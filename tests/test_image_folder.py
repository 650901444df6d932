"""image_folder on files of every kind, made here with Pillow; expectations by hand."""

import io
import os
import struct
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from sftlib.datasets import image_folder, loader
from sftlib.datasets.decode import decode

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


def noise(seed, shape=(11, 13, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def put(path, seed=None, **options):
    """a picture of noise, a different one for each path"""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = abs(hash(str(path))) if seed is None else seed
    Image.fromarray(noise(seed)).save(path, **options)
    return path


def one_folder(root, classes=("cat", "dog"), n=7):
    for k, name in enumerate(classes):
        for i in range(n):
            put(root / name / f"{i}.png", seed=101 * k + i)
    return root


def three_folders(root, classes=("cat", "dog"), splits=("train", "val", "test")):
    for s, split in enumerate(splits):
        for k, name in enumerate(classes):
            for i in range(3):
                put(root / split / name / f"{i}.png", seed=1009 * s + 101 * k + i)
    return root


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def error_of(root, **settings):
    with pytest.raises(ValueError) as caught:
        image_folder.load(root, **settings)
    return str(caught.value)


# --- layouts ---------------------------------------------------------------------------------------------------


def test_given_folders_are_taken_as_they_are(tmp_path):
    splits = image_folder.load(three_folders(tmp_path, classes=("dog", "ant", "cat")))
    assert splits.classes == ("ant", "cat", "dog")
    for name in ("train", "val", "test"):
        split = getattr(splits, name)
        assert len(split) == 9 and split.labels.tolist() == sorted(split.labels.tolist())
        for i in range(9):
            picture, label = split[i]
            file = tmp_path / split.names[i]
            assert splits.classes[label] == file.parent.name and file.parent.parent.name == name
            assert torch.equal(picture, torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))


def test_without_test_folder_the_test_split_is_empty(tmp_path):
    splits = image_folder.load(three_folders(tmp_path, splits=("train", "val")))
    assert len(splits.train) == 6 and len(splits.test) == 0


def test_other_usual_names_of_the_split_folders(tmp_path):
    splits = image_folder.load(three_folders(tmp_path, splits=("Training", "valid", "TEST")))
    assert (len(splits.train), len(splits.val), len(splits.test), splits.classes) == (6, 6, 6, ("cat", "dog"))


def test_one_folder_is_split_by_seed_and_stratified(tmp_path):
    one_folder(tmp_path, classes=("cat", "dog", "emu"), n=20)
    splits = image_folder.load(tmp_path, seed=3)
    parts = [splits.train, splits.val, splits.test]
    assert [p.labels.bincount().tolist() for p in parts] == [[14] * 3, [3] * 3, [3] * 3]
    assert len({name for p in parts for name in p.names}) == 60
    assert image_folder.load(tmp_path, seed=3).val.names == splits.val.names
    assert image_folder.load(tmp_path, seed=4).val.names != splits.val.names


def test_a_class_may_be_called_train(tmp_path):
    splits = image_folder.load(one_folder(tmp_path, classes=("bus", "train", "car")))
    assert splits.classes == ("bus", "car", "train")


def test_pictures_in_folders_within_a_class_belong_to_it(tmp_path):
    put(one_folder(tmp_path, n=3) / "cat" / "2019" / "may" / "x.png")
    with pytest.warns(UserWarning, match="1 picture.* such as cat/2019/may; each is taken by itself"):
        splits = image_folder.load(tmp_path)
    names = [name for part in (splits.train, splits.val, splits.test) for name in part.names]
    assert len(names) == 7 and "cat/2019/may/x.png" in names and splits.classes == ("cat", "dog")
    assert image_folder.load(tmp_path, groups=lambda path: path).train.names == splits.train.names


def test_size_gives_pictures_in_memory_and_none_gives_files(tmp_path):
    one_folder(tmp_path)
    small, lazy, limited = (
        image_folder.load(tmp_path, **s) for s in ({"size": 5}, {}, {"size": 5, "memory_bytes": 1000})
    )
    assert small.train.pictures.shape == (len(small.train), 3, 5, 5)
    assert not hasattr(lazy.train, "pictures") and lazy.train[0][0].shape == (3, 11, 13)
    assert not hasattr(limited.train, "pictures")
    for i in range(len(small.train)):
        assert torch.equal(small.train[i][0], limited.train[i][0]) and small.train[i][1] == limited.train[i][1]


def test_the_loader_reads_files_and_memory_alike(tmp_path):
    one_folder(tmp_path)
    epochs = []
    for memory_bytes in (10**6, 0):
        train = image_folder.load(tmp_path, size=7, memory_bytes=memory_bytes).train
        generator = torch.Generator().manual_seed(1)
        epochs.append(list(loader(train, torch.Tensor.float, batch_size=3, shuffle=True, generator=generator)))
    for (x, y), (other_x, other_y) in zip(*epochs, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


def test_a_file_that_vanishes_after_loading_is_named(tmp_path):
    train = image_folder.load(one_folder(tmp_path)).train
    (tmp_path / train.names[0]).unlink()
    with pytest.raises(ValueError, match="has changed since"):
        train[0]


# --- what each file becomes ------------------------------------------------------------------------------------


def test_grey_becomes_three_equal_channels():
    grey = noise(2, (5, 7))
    assert (decode(encoded(Image.fromarray(grey), "PNG")) == grey[:, :, None]).all()


def test_black_and_white_becomes_0_and_255():
    bits = noise(3, (5, 7)) > 127
    assert (decode(encoded(Image.fromarray(bits), "PNG")) == 255 * bits[:, :, None]).all()


def test_palette_becomes_its_colours():
    image = Image.new("P", (3, 2))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2, 2, 1, 0])
    assert decode(encoded(image, "PNG")).tolist() == [[[*RED], [*GREEN], [*BLUE]], [[*BLUE], [*GREEN], [*RED]]]


def test_cmyk_jpeg_becomes_rgb():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.abs(decode(encoded(cyan, "JPEG", quality=95)).astype(int) - [0, 255, 255]).max() <= 4
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert decode(encoded(white, "TIFF")).min() == 255


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(file_format):
    values = np.array([[0, 128, 129, 257, 1000, 32768, 65000, 65535]], np.uint16)
    got = decode(encoded(Image.fromarray(values), file_format))
    assert got[0, :, 0].tolist() == [0, 0, 1, 1, 4, 128, 253, 255]  # v / 257 rounded, by hand


def test_big_endian_16_bit_is_read_in_its_order():
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257 * 3, 257 * 200))
    assert decode(encoded(big, "TIFF"))[0, :, 0].tolist() == [3, 200]


def test_16_bit_ppm_is_scaled():
    data = b"P5 2 1 65535\n" + struct.pack(">2H", 257 * 3, 257 * 200)
    assert decode(data)[0, :, 0].tolist() == [3, 200]


def test_floating_point_pictures_are_refused():
    with pytest.raises(ValueError, match="mode F"):
        decode(encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"))


@pytest.mark.parametrize("mode, colour", [("RGBA", (200, 100, 0, 51)), ("LA", (200, 51))])
def test_transparent_pictures_lie_on_white(mode, colour):
    # alpha 51 / 255 = 0.2: 0.2 * 200 + 0.8 * 255 = 244; 0.2 * 100 + 204 = 224; 204
    got = decode(encoded(Image.new(mode, (2, 3), colour), "PNG"))[1, 1]
    assert got.tolist() == ([244, 224, 204] if mode == "RGBA" else [244, 244, 244])


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    for transparency in (1, bytes([255, 0])):  # one colour, or an alpha for each
        got = decode(encoded(image, "PNG", transparency=transparency))
        assert got.tolist() == [[[*RED], [255, 255, 255]]]


def test_a_transparent_colour_of_rgb_is_white():
    image = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
    assert decode(encoded(image, "PNG", transparency=BLUE)).tolist() == [[[*RED], [255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a bright corner, top left
    stored = {  # how a camera lays the upright picture down, from the EXIF standard: where row 0, column 0 go
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", exif=exif, quality=95))
    assert got.shape == upright.shape and np.abs(got.astype(int) - upright).max() < 20


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (5, 7), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data) == RED).all() and decode(data).shape == (7, 5, 3)


@pytest.mark.parametrize("shape", [(31, 93, 3), (93, 31, 3)])
def test_size_resizes_the_shorter_side_and_keeps_the_middle_square(shape):
    picture = noise(3, shape)
    middle = picture[31:62] if shape[0] > shape[1] else picture[:, 31:62]
    assert (decode(encoded(Image.fromarray(picture), "PNG"), 31) == middle).all()
    whole = Image.fromarray(picture).resize((shape[1] * 11 // 31, shape[0] * 11 // 31), Image.Resampling.BILINEAR)
    middle = np.array(whole)[11:22] if shape[0] > shape[1] else np.array(whole)[:, 11:22]
    assert (decode(encoded(Image.fromarray(picture), "PNG"), 11) == middle).all()


def test_size_averages_what_it_shrinks():
    checks = np.indices((60, 60)).sum(0) % 2 * 255
    small = decode(encoded(Image.fromarray(checks.astype(np.uint8)), "PNG"), 7)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127.5).max() < 8  # nearest or plain bilinear gives 0 and 255


# --- what is wrong is said at once -----------------------------------------------------------------------------


def test_missing_folder_and_file_for_a_folder(tmp_path):
    assert "does not exist" in error_of(tmp_path / "nowhere")
    assert "is a file" in error_of(put(tmp_path / "a.png"))


def test_empty_folder(tmp_path):
    assert "no picture in any folder of a class" in error_of(tmp_path)


def test_one_class_only(tmp_path):
    assert "one class only, cat" in error_of(one_folder(tmp_path, classes=("cat",)))


def test_empty_class_folder(tmp_path):
    (one_folder(tmp_path) / "emu").mkdir()
    assert "emu: holds no picture" in error_of(tmp_path)


def test_a_class_with_too_few_pictures_for_the_splits(tmp_path):
    one_folder(tmp_path)
    put(tmp_path / "emu" / "a.png")
    put(tmp_path / "emu" / "b.png")
    assert "emu: 2 distinct picture(s), too few for 3 splits" in error_of(tmp_path)
    assert len(image_folder.load(tmp_path, fractions=(0.8, 0.2, 0)).test) == 0


def test_all_damaged_files_are_listed_in_one_error(tmp_path):
    one_folder(tmp_path)
    (tmp_path / "cat" / "zero.jpg").touch()
    (tmp_path / "cat" / "text.png").write_text("no picture")
    (tmp_path / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    whole = encoded(Image.fromarray(noise(1, (97, 89, 3))), "JPEG")
    (tmp_path / "dog" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(encoded(Image.fromarray(noise(2)), "PNG"))
    damaged[60] ^= 255
    (tmp_path / "dog" / "bits.png").write_bytes(damaged)
    message = error_of(tmp_path)
    assert "5 problem(s)" in message
    assert "cat/zero.jpg: an empty file" in message
    assert "cat/text.png: no picture" in message
    assert "dog/phone.heic: no picture" in message
    assert "dog/cut.jpg: damaged" in message and "dog/bits.png: damaged" in message
    assert "0.png" not in message and str(tmp_path) in message
    assert error_of(tmp_path, size=7) == message


def test_a_long_list_of_problems_is_counted(tmp_path):
    one_folder(tmp_path)
    for i in range(23):
        (tmp_path / "cat" / f"zero{i}.jpg").touch()
    message = error_of(tmp_path)
    assert "23 problem(s)" in message and message.count("an empty file") == 20 and "and 3 more" in message


def test_decompression_bombs_are_refused_below_and_above_twice_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    one_folder(tmp_path)
    Image.new("L", (40, 40)).save(tmp_path / "cat" / "warned.png")
    Image.new("L", (400, 400)).save(tmp_path / "cat" / "refused.png")
    message = error_of(tmp_path)
    assert "2 problem(s)" in message and message.count("more than 1,000 pixels") == 2


def test_a_split_that_leaves_a_class_out(tmp_path):
    three_folders(tmp_path)
    for i in range(2):
        put(tmp_path / "train" / "emu" / f"{i}.png")
    message = error_of(tmp_path)
    assert "val/emu: missing" in message and "test/emu: missing" in message and "2 problem(s)" in message


def test_classes_that_differ_between_train_and_val(tmp_path):
    three_folders(tmp_path, splits=("train",), classes=("cat", "dog"))
    put(tmp_path / "val" / "Cat" / "0.png")
    put(tmp_path / "val" / "dog" / "0.png")
    message = error_of(tmp_path)
    assert "val/cat: missing" in message and "train/Cat: missing" in message


def test_train_without_val_and_two_vals(tmp_path):
    three_folders(tmp_path / "a", splits=("train",))
    assert "val: missing beside train" in error_of(tmp_path / "a")
    three_folders(tmp_path / "b", splits=("train", "val", "valid"))
    assert "valid: a second folder for val" in error_of(tmp_path / "b")


def test_an_empty_split_folder_and_splits_without_classes(tmp_path):
    (three_folders(tmp_path / "a", splits=("train", "val")) / "test").mkdir()
    assert "test: no picture in any folder of a class" in error_of(tmp_path / "a")
    for split in ("train", "val"):
        put(tmp_path / "b" / split / "0.png")
    message = error_of(tmp_path / "b")
    assert "train/0.png: lies in no folder of a class" in message and "val/0.png" in message


def test_other_files_are_passed_over_and_listed(tmp_path):
    one_folder(tmp_path)
    for name in ("README.txt", ".DS_Store", "cat/Thumbs.db", "cat/._0.png", "dog/notes.md", "__MACOSX/cat/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"anything")
    splits = image_folder.load(tmp_path)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 14
    expected = {"README.txt", ".DS_Store", "cat/Thumbs.db", "cat/._0.png", "dog/notes.md", "__MACOSX"}
    assert set(splits.ignored) == expected


def test_what_lies_beside_the_split_folders_is_listed(tmp_path):
    put(three_folders(tmp_path) / "extra" / "0.png")
    assert image_folder.load(tmp_path).ignored == ("extra",)


def test_names_in_any_script(tmp_path):
    classes = ("猫", "собака", "كلب", "a b'c\"d", "🐈")
    one_folder(tmp_path, classes=classes, n=3)
    put(tmp_path / "猫" / "мой кот — 1.png")
    assert image_folder.load(tmp_path, size=5).classes == tuple(sorted(classes))
    (tmp_path / "猫" / "пусто.png").touch()
    assert "猫/пусто.png: an empty file" in error_of(tmp_path)


def test_the_two_ways_of_writing_an_accent_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    three_folders(tmp_path, splits=("train",), classes=(composed, "thé"))
    for i, name in enumerate((decomposed, "thé")):
        put(tmp_path / "val" / name / "0.png", seed=5000 + i)
    assert image_folder.load(tmp_path).classes == (composed, "thé")


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are text there")
def test_a_name_that_is_no_text_can_be_printed(tmp_path):
    one_folder(tmp_path)
    open(os.fsencode(tmp_path / "cat") + b"/\xff.png", "wb").close()
    error_of(tmp_path).encode()


# --- links and duplicates --------------------------------------------------------------------------------------


@needs_links
def test_links_to_files_and_folders_are_followed(tmp_path):
    root = one_folder(tmp_path / "pictures", classes=("cat",))
    one_folder(tmp_path / "elsewhere", classes=("dog",), n=3)
    for path in (tmp_path / "elsewhere" / "dog").iterdir():
        put(path, seed=len(path.read_bytes()) + int(path.stem) + 7000)
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "dog", target_is_directory=True)
    (root / "cat" / "linked.png").symlink_to(put(tmp_path / "single.png", seed=9001))
    splits = image_folder.load(root)
    names = [n for part in (splits.train, splits.val, splits.test) for n in part.names]
    assert splits.classes == ("cat", "dog") and len(names) == 11 and "cat/linked.png" in names


@needs_links
def test_broken_links_and_loops_are_named(tmp_path):
    one_folder(tmp_path)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "cat" / "self.png").symlink_to(tmp_path / "cat" / "self.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "emu").symlink_to(tmp_path / "nothing", target_is_directory=True)
    message = error_of(tmp_path)
    for name in ("cat/gone.png", "cat/self.png", "emu"):
        assert f"{name}: a link that leads nowhere" in message
    assert "cat/up: a link that leads back" in message and "4 problem(s)" in message


def test_copies_of_one_file_stay_in_one_split(tmp_path):
    one_folder(tmp_path, n=11)
    for i in range(5):
        put(tmp_path / "dog" / f"copy{i}.png", seed=101 + 3)  # the same bytes as dog/3.png
    for seed in range(5):
        splits = image_folder.load(tmp_path, seed=seed)
        holders = [p for p in (splits.train, splits.val, splits.test) if {"dog/3.png", "dog/copy0.png"} & set(p.names)]
        assert len(holders) == 1 and {f"dog/copy{i}.png" for i in range(5)} < set(holders[0].names)
        assert len(splits.train) + len(splits.val) + len(splits.test) == 27


def test_the_same_file_in_two_classes_or_given_splits_is_named(tmp_path):
    put(one_folder(tmp_path / "a") / "dog" / "x.png", seed=2)  # cat/2.png
    message = error_of(tmp_path / "a")
    assert "dog/x.png: the same file as cat/2.png, in another class" in message
    put(three_folders(tmp_path / "b") / "val" / "cat" / "x.png", seed=1)  # train/cat/1.png
    message = error_of(tmp_path / "b")
    assert "val/cat/x.png: the same file as train/cat/1.png, in another split" in message
    assert len(image_folder.load(tmp_path / "b", allow_duplicates=True).val) == 7
    splits = image_folder.load(tmp_path / "a", allow_duplicates=True)
    assert sum({"dog/x.png", "cat/2.png"} <= set(p.names) for p in (splits.train, splits.val, splits.test)) == 1


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 2.5}, {"fractions": (0.5, 0.1, 0.1)}])
def test_wrong_settings_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="expected"):
        image_folder.load(one_folder(tmp_path), **settings)
