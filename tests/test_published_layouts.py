"""Folders in the published layouts of Penn-Fudan, Pascal VOC and CamVid, made here, whole and broken"""

import numpy as np
import pytest
import torch
from PIL import Image

from sftlib.datasets import camvid, layouts, penn_fudan, voc

W, H = 53, 41


def picture(path, width=W, height=H, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, 20, 30)).save(path)


def labels(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def everything(splits):
    """name without folder and ending -> (picture, target), of all three splits"""
    parts = (splits.train, splits.val, splits.test)
    return {n.split("/")[-1].split(".")[0]: part[i] for part in parts for i, n in enumerate(part.names)}


# ------------------------------------------------------------------------------------------------------ Penn-Fudan


def people(*boxes):
    """Boxes x1, y1, x2, y2 -> mask (H, W) with the numbers 1, 2 …"""
    mask = np.zeros((H, W), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        mask[y1:y2, x1:x2] = i
    return mask


@pytest.fixture
def fudan(tmp_path):
    masks = {"A1": people((3, 5, 11, 29), (17, 7, 23, 31)), "A2": people(), "A3": people((0, 0, 2, 3))}
    for name, mask in masks.items():
        picture(tmp_path / "PNGImages" / f"{name}.png")
        labels(tmp_path / "PedMasks" / f"{name}_mask.png", mask)
    return tmp_path


def test_penn_fudan_gives_the_boxes_and_masks_that_were_drawn(fudan):
    splits = penn_fudan.load(fudan)
    found = everything(splits)
    assert splits.objects == ("background", "pedestrian") and sorted(found) == ["A1", "A2", "A3"]
    target = found["A1"][1]
    assert target["boxes"].tolist() == [[3, 5, 11, 29], [17, 7, 23, 31]] and target["labels"].tolist() == [1, 1]
    assert target["masks"].shape == (2, H, W) and target["masks"].sum((1, 2)).tolist() == [8 * 24, 6 * 24]
    empty = found["A2"][1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,) and empty["masks"].shape == (0, H, W)


def test_a_size_moves_boxes_and_masks_with_the_picture(fudan):
    pixels, target = everything(penn_fudan.load(fudan, size=(2 * W, 2 * H)))["A1"]
    assert pixels.shape == (3, 2 * H, 2 * W)
    assert target["boxes"].tolist() == [[6, 10, 22, 58], [34, 14, 46, 62]]
    columns = target["masks"][0].any(0).nonzero().flatten()
    assert [columns.min().item(), columns.max().item()] == [6, 21]


def test_palette_indices_are_the_numbers(fudan):
    image = Image.fromarray(people((3, 5, 11, 29))).convert("P")
    image.putpalette([0, 0, 0, 200, 10, 10] + [7] * 762)
    image.putdata(people((3, 5, 11, 29)).ravel().tolist())
    image.save(fudan / "PedMasks" / "A1_mask.png")
    assert everything(penn_fudan.load(fudan))["A1"][1]["boxes"].tolist() == [[3, 5, 11, 29]]


def spoil_fudan(root, fault):
    mask = root / "PedMasks" / "A1_mask.png"
    {
        "255": lambda: labels(mask, people((3, 5, 11, 29)) * 255),
        "gap": lambda: labels(mask, people((3, 5, 11, 29), (17, 7, 23, 31)) * 2),
        "colour": lambda: Image.new("RGB", (W, H), (0, 9, 0)).save(mask),
        "size": lambda: labels(mask, people()[:-2]),
        "empty": lambda: mask.write_bytes(b""),
        "cut": lambda: mask.write_bytes(mask.read_bytes()[:40]),
        "missing": mask.unlink,
        "picture": lambda: (root / "PNGImages" / "A1.png").write_bytes(b"no picture"),
        "alone": (root / "PNGImages" / "A1.png").unlink,
    }[fault]()


@pytest.mark.parametrize(
    "fault, words",
    [
        ("255", "A1_mask.png: numbers [0, 255]; expected 0 for the ground and 1 … n"),
        ("gap", "A1_mask.png: numbers [0, 2, 4]"),
        ("colour", "A1_mask.png: has colours"),
        ("size", "A1_mask.png has 53 x 39 pixels, the picture 53 x 41"),
        ("empty", "A1_mask.png: an empty file"),
        ("cut", "A1_mask.png: damaged"),
        ("missing", "A1.png: has no mask in PedMasks of its name"),
        ("picture", "A1.png: no picture that can be read"),
        ("alone", "A1_mask.png: has no picture of its name"),
    ],
)
def test_a_broken_penn_fudan_is_named_and_can_be_passed_over(fudan, fault, words):
    spoil_fudan(fudan, fault)
    with pytest.raises(ValueError) as error:
        penn_fudan.load(fudan)
    assert words in str(error.value) and "skip_broken=True" in str(error.value)
    rest = penn_fudan.load(fudan, skip_broken=True)
    assert sorted(everything(rest)) == ["A2", "A3"] and len(rest.broken) == 1 and words in rest.broken[0]


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no folder PNGImages"):
        penn_fudan.load(tmp_path)
    with pytest.raises(ValueError, match="has no folder Annotations"):
        voc.load(tmp_path)
    with pytest.raises(ValueError, match="no CamVid in it"):
        camvid.load(tmp_path)
    for name in ("PNGImages", "PedMasks"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="no picture in it"):
        penn_fudan.load(tmp_path)


def test_neighbours_stay_in_one_split_and_every_picture_is_in_one(tmp_path):
    for i in range(37):
        picture(tmp_path / "PNGImages" / f"B{i:02}.png")
        labels(tmp_path / "PedMasks" / f"B{i:02}_mask.png", people((1, 1, 5, 7)))
    splits = penn_fudan.load(tmp_path, seed=3)
    parts = [[int(n[-6:-4]) for n in part.names] for part in (splits.train, splits.val, splits.test)]
    assert sorted(sum(parts, [])) == list(range(37)) and all(parts)
    groups = [{i // 5 for i in part} for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    again = penn_fudan.load(tmp_path, seed=3)
    assert again.train.names == splits.train.names and again.train.fingerprint == splits.train.fingerprint
    assert penn_fudan.load(tmp_path, seed=5).train.names != splits.train.names


# ------------------------------------------------------------------------------------------------------ Pascal VOC


def xml(path, *objects, size=(W, H), tail=""):
    """objects (name, xmin, ymin, xmax, ymax)"""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = "".join(
        f"<object><name>{n}</name>{tail}<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for n, a, b, c, d in objects
    )
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{listed}"
        "</annotation>"
    )


@pytest.fixture
def pascal(tmp_path):
    notes = {"p1": [("dog", 1, 1, 13, 17), ("cat", 5, 7, W, H)], "p2": [], "p3": [("cat", 3, 3, 3, 3)]}
    for name, objects in notes.items():
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        xml(tmp_path / "Annotations" / f"{name}.xml", *objects)
    return tmp_path


def test_voc_counts_pixels_from_1_and_includes_the_last(pascal):
    splits = voc.load(pascal)
    found = everything(splits)
    assert splits.objects == ("background", "cat", "dog")
    assert found["p1"][1]["boxes"].tolist() == [[0, 0, 13, 17], [4, 6, W, H]]
    assert found["p1"][1]["labels"].tolist() == [2, 1]
    assert found["p2"][1]["boxes"].shape == (0, 4) and "masks" not in found["p2"][1]
    assert found["p3"][1]["boxes"].tolist() == [[2, 2, 3, 3]]


def test_boxes_that_count_from_0_are_taken_as_such(pascal):
    xml(pascal / "Annotations" / "p3.xml", ("cat", 0, 3, 7, 9))
    splits = voc.load(pascal)
    assert everything(splits)["p3"][1]["boxes"].tolist() == [[0, 3, 7, 9]] and "from 0" in splits.notes[0]
    assert everything(splits)["p1"][1]["boxes"].tolist() == [[1, 1, 13, 17], [5, 7, W, H]]


def test_difficult_objects_are_left_out_and_counted(pascal):
    xml(pascal / "Annotations" / "p3.xml", ("cat", 3, 3, 9, 9), tail="<difficult>1</difficult>")
    splits = voc.load(pascal)
    assert len(everything(splits)["p3"][1]["boxes"]) == 0 and "1 objects marked difficult" in splits.notes[0]
    assert len(everything(voc.load(pascal, difficult=True))["p3"][1]["boxes"]) == 1


def test_chosen_classes_count_from_1_in_their_order(pascal):
    splits = voc.load(pascal, classes=("dog",))
    assert splits.objects == ("background", "dog") and everything(splits)["p1"][1]["labels"].tolist() == [1]
    with pytest.raises(ValueError, match="got classes=.*cow.*; expected some of .*: cat, dog"):
        voc.load(pascal, classes=("cow",))


def test_image_sets_say_which_picture_is_in_which_split(pascal):
    main = pascal / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("p1\n")
    (main / "val.txt").write_text("p3\n")
    splits = voc.load(pascal)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1, 1, 0) and "p1" in splits.train.names[0]
    (main / "val.txt").write_text("p3\np1\n")
    with pytest.raises(ValueError, match=r"val.txt: p1 is in train too"):
        voc.load(pascal)
    (main / "val.txt").write_text("p9\n")
    with pytest.raises(ValueError, match="ImageSets names p9"):
        voc.load(pascal)


@pytest.mark.parametrize(
    "box, words",
    [
        ((20, 5, 9, 31), "p3.xml: cat with xmin, ymin, xmax, ymax = 20, 5, 9, 31; expected xmin < xmax"),
        ((5, 5, 9, 60), "p3.xml: cat with xmin, ymin, xmax, ymax = 5, 5, 9, 60 reaches out of the picture of 53 x 41"),
        ((-30, 5, 9, 31), "reaches out of the picture"),
        ((W + 1, 5, W + 2, 31), "lies outside the picture of 53 x 41"),
        (("left", 5, 9, 31), "p3.xml: object 1, cat, has xmin='left'; expected a number"),
        (("nan", 5, 9, 31), "expected a place in the picture"),
    ],
)
def test_an_impossible_box_is_named(pascal, box, words):
    xml(pascal / "Annotations" / "p3.xml", ("cat", *box))
    with pytest.raises(ValueError) as error:
        voc.load(pascal)
    assert words in str(error.value)
    rest = voc.load(pascal, skip_broken=True)
    assert sorted(everything(rest)) == ["p1", "p2"] and words in rest.broken[0]


def test_width_and_height_in_place_of_corners_are_recognised(pascal):
    xml(pascal / "Annotations" / "p1.xml", ("dog", 20, 9, 13, 17))
    with pytest.raises(ValueError, match="they look like x, y, width, height"):
        voc.load(pascal)
    xml(pascal / "Annotations" / "p3.xml", ("cat", 30, 9, 40, 17))  # as x, y, width, height it would reach out
    with pytest.raises(ValueError) as error:
        voc.load(pascal)
    assert "xmin < xmax" in str(error.value) and "width, height:" not in str(error.value)


def test_what_rounding_puts_beyond_the_edge_is_cut(pascal):
    xml(pascal / "Annotations" / "p3.xml", ("cat", 3, 3, W + 1, H + 2))
    assert everything(voc.load(pascal))["p3"][1]["boxes"].tolist() == [[2, 2, W, H]]


def spoil_pascal(root, fault):
    note = root / "Annotations" / "p3.xml"
    {
        "cut": lambda: note.write_text("<annotation><object>"),
        "other": lambda: note.write_text("<html/>"),
        "empty": lambda: note.write_bytes(b""),
        "size": lambda: xml(note, ("cat", 3, 3, 9, 9), size=(H, W)),
        "nameless": lambda: xml(note, (" ", 3, 3, 9, 9)),
        "missing": note.unlink,
    }[fault]()


@pytest.mark.parametrize(
    "fault, words",
    [
        ("cut", "p3.xml: no XML that can be read"),
        ("other", "p3.xml: begins with <html>"),
        ("empty", "p3.xml: no XML"),
        ("size", "p3.xml: size 41 x 53, the picture has 53 x 41"),
        ("nameless", "p3.xml: object 1 has no name"),
        ("missing", "p3.jpg: has no XML file in Annotations of its name"),
    ],
)
def test_a_broken_voc_is_named(pascal, fault, words):
    spoil_pascal(pascal, fault)
    with pytest.raises(ValueError) as error:
        voc.load(pascal)
    assert words in str(error.value)
    assert sorted(everything(voc.load(pascal, skip_broken=True))) == ["p1", "p2"]


def test_a_size_of_0_says_nothing(pascal):
    xml(pascal / "Annotations" / "p3.xml", ("cat", 3, 3, 9, 9), size=(0, 0))
    assert everything(voc.load(pascal))["p3"][1]["boxes"].tolist() == [[2, 2, 9, 9]]


# ---------------------------------------------------------------------------------------------------------- CamVid


def stripes(*numbers):
    """(H, W): columns of each number, in turn"""
    return np.tile(np.array(numbers, np.uint8)[np.arange(W) % len(numbers)], (H, 1))


@pytest.fixture
def segnet(tmp_path):
    for split, numbers in (("train", (0, 3, 11)), ("val", (0, 10)), ("test", (0, 1, 2))):
        picture(tmp_path / split / "f1.png")
        labels(tmp_path / f"{split}annot" / "f1.png", stripes(*numbers))
    return tmp_path


def test_camvid_numbers_are_classes_and_11_counts_for_nothing(segnet):
    splits = camvid.load(segnet)
    assert splits.classes[3] == "road" and len(splits.classes) == 11
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1, 1, 1)
    expected = torch.from_numpy(stripes(0, 3, 255))
    assert torch.equal(splits.train[0][1]["class_map"], expected) and splits.train[0][1]["boxes"].shape == (0, 4)
    halved = camvid.load(segnet, size=(2 * W, 2 * H)).train[0][1]["class_map"]
    assert torch.equal(halved, expected.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_colours_become_the_eleven_classes(tmp_path):
    colours = {"Sky": (128, 128, 128), "Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192),
               "Sidewalk": (0, 0, 192), "Void": (0, 0, 0), "Child": (192, 128, 64)}  # fmt: skip
    lines = [f"{r} {g} {b}\t\t{name}" for name, (r, g, b) in colours.items()]
    (tmp_path / "label_colors.txt").write_text("\n".join(lines))
    names = list(colours)
    for i in range(43):
        picture(tmp_path / "701_StillsRaw_full" / f"0001TP_{i:03}.png")
        values = np.array(list(colours.values()), np.uint8)[stripes(*range(len(names)))]
        labels(tmp_path / "LabeledApproved_full" / f"0001TP_{i:03}_L.png", values)
    splits = camvid.load(tmp_path)
    _, target = splits.train[0]
    assert torch.equal(target["class_map"], torch.from_numpy(stripes(0, 3, 3, 4, 255, 9)))
    parts = [{int(n[-7:-4]) // 20 for n in part.names} for part in (splits.train, splits.val, splits.test)]
    assert parts[0] | parts[1] | parts[2] == {0, 1, 2} and sum(map(len, parts)) == 3
    alone = camvid.load(tmp_path, eleven=False)
    assert alone.classes == ("Sky", "Road", "LaneMkgsDriv", "Sidewalk", "Child")
    labels(tmp_path / "LabeledApproved_full" / "0001TP_007_L.png", np.full((H, W, 3), (1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"0001TP_007_L.png: colours \[\[1, 2, 3\]\] .* not in the table"):
        camvid.load(tmp_path)


def test_class_dict_and_split_folders(tmp_path):
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nground,9,9,9\nwater,0,0,200\nVoid,0,0,0\n")
    values = np.array([(9, 9, 9), (0, 0, 200), (0, 0, 0)], np.uint8)[stripes(0, 1, 2)]
    for split in ("train", "val", "test"):
        picture(tmp_path / split / "a.png")
        labels(tmp_path / f"{split}_labels" / "a_L.png", values)
    splits = camvid.load(tmp_path)
    assert splits.classes == ("ground", "water")
    assert torch.equal(splits.test[0][1]["class_map"], torch.from_numpy(stripes(0, 1, 255)))


def test_codes_name_the_numbers_and_a_list_the_validation_pictures(tmp_path):
    (tmp_path / "codes.txt").write_text("tree\nVoid\nwall\n")
    (tmp_path / "valid.txt").write_text("b.png\n")
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
        labels(tmp_path / "labels" / f"{name}_P.png", stripes(0, 1, 2))
    splits = camvid.load(tmp_path)
    assert splits.classes == ("tree", "wall") and len(splits.train) == 2 and splits.val.names == ("images/b.png",)
    assert torch.equal(splits.val[0][1]["class_map"], torch.from_numpy(stripes(0, 255, 1)))


def test_numbers_that_begin_with_1_are_not_taken_for_others(segnet):
    labels(segnet / "trainannot" / "f1.png", stripes(1, 4, 12))
    with pytest.raises(ValueError, match=r"f1.png: numbers \[12\] stand for no class.*first=1"):
        camvid.load(segnet)
    for split in ("train", "val", "test"):
        labels(segnet / f"{split}annot" / "f1.png", stripes(1, 4, 11))
    with pytest.raises(ValueError, match="no label image has a pixel of number 0, sky.*first=1"):
        camvid.load(segnet)
    shifted = camvid.load(segnet, first=1).train[0][1]["class_map"]
    assert torch.equal(shifted, torch.from_numpy(stripes(0, 3, 10)))
    kept = camvid.load(segnet, first=0).train[0][1]["class_map"]
    assert torch.equal(kept, torch.from_numpy(stripes(1, 4, 255)))


def test_validation_pictures_are_cut_from_train_where_the_folder_has_none(tmp_path):
    for i in range(47):
        picture(tmp_path / "train" / f"f{i:02}.png")
        labels(tmp_path / "trainannot" / f"f{i:02}.png", stripes(0, 3))
    for i in range(3):
        picture(tmp_path / "test" / f"g{i}.png")
        labels(tmp_path / "testannot" / f"g{i}.png", stripes(0, 3))
    splits = camvid.load(tmp_path, fractions=(0.5, 0.25, 0.25))
    assert len(splits.test) == 3 and all("g" in n for n in splits.test.names)
    assert len(splits.val) in (7, 20) and len(splits.train) + len(splits.val) == 47


def test_a_file_that_changes_after_loading_is_named(segnet, monkeypatch):
    monkeypatch.setattr("sftlib.datasets.published.KEEP_BYTES", 0)
    splits = camvid.load(segnet)
    (segnet / "train" / "f1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="f1.png: an empty file"):
        splits.train[0]


def spoil_segnet(root, fault):
    mask = root / "trainannot" / "f1.png"
    {
        "number": lambda: labels(mask, stripes(0, 77)),
        "colour": lambda: labels(mask, np.full((H, W, 3), (1, 2, 3), np.uint8)),
        "size": lambda: labels(mask, stripes(0, 3)[:-5]),
        "jpeg": lambda: Image.fromarray(stripes(0, 3)).save(mask, format="JPEG"),
        "missing": mask.unlink,
        "empty": lambda: mask.write_bytes(b""),
    }[fault]()


@pytest.mark.parametrize(
    "fault, words",
    [
        ("number", "f1.png: numbers [77] stand for no class; expected 0 to 11"),
        ("size", "f1.png has 53 x 36 pixels, the picture 53 x 41"),
        ("jpeg", "f1.png: JPEG changes the numbers"),
        ("missing", "f1.png: has no label image in trainannot"),
        ("empty", "f1.png: an empty file"),
    ],
)
def test_a_broken_camvid_is_named(segnet, fault, words):
    spoil_segnet(segnet, fault)
    with pytest.raises(ValueError) as error:
        camvid.load(segnet)
    assert words in str(error.value)
    assert len(camvid.load(segnet, skip_broken=True).train) == 0


def test_colours_without_a_table_are_refused(segnet):
    spoil_segnet(segnet, "colour")
    with pytest.raises(ValueError, match="expected label_colors.txt"):
        camvid.load(segnet)


def test_grey_saved_as_colour_is_numbers(segnet):
    labels(segnet / "trainannot" / "f1.png", np.repeat(stripes(0, 3, 11)[..., None], 3, 2))
    assert torch.equal(camvid.load(segnet).train[0][1]["class_map"], torch.from_numpy(stripes(0, 3, 255)))


# ----------------------------------------------------------------------------------------- whichever layout it is


def test_a_folder_with_boxes_is_read_in_the_layout_that_it_has(fudan, tmp_path_factory):
    other = tmp_path_factory.mktemp("voc")
    picture(other / "JPEGImages" / "p1.jpg")
    xml(other / "Annotations" / "p1.xml", ("dog", 1, 1, 13, 17), ("cat", 5, 7, W, H))
    for root, objects in ((fudan, ("background", "pedestrian")), (other, ("background", "cat", "dog"))):
        splits, size = layouts.with_boxes(root, size=(2 * W, 2 * H), seed=3), (3, 2 * H, 2 * W)
        assert splits.objects == objects and all(p.shape == size for p, _ in everything(splits).values())
    target = everything(layouts.with_boxes(other))["p1"][1]
    assert target["boxes"].tolist() == [[0, 0, 13, 17], [4, 6, W, H]] and target["labels"].tolist() == [2, 1]


def test_a_folder_in_no_layout_or_in_two_is_refused(fudan, tmp_path_factory):
    with pytest.raises(ValueError, match="has neither; expected one of PNGImages with PedMasks"):
        layouts.with_boxes(tmp_path_factory.mktemp("none"))
    (fudan / "Annotations").mkdir()
    with pytest.raises(ValueError, match="has PedMasks and Annotations"):
        layouts.with_boxes(fudan)


def test_255_in_a_label_image_counts_for_nothing(segnet):
    labels(segnet / "trainannot" / "f1.png", stripes(0, 255, 3))
    assert torch.equal(camvid.load(segnet).train[0][1]["class_map"], torch.from_numpy(stripes(0, 255, 3)))
