"""Notebook 15 against the tutorial: the folders, the notebook's own cells, the tutorial's loop."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from sftlib.datasets import image_folder
from tools.experiments import own_folders, own_pictures

SMALL = {"BUDGET_S": 60, "MOST_EPOCHS": 1, "SIDE": 64, "MODEL": "squeezenet1_1"}
SECONDS = {"ours_s", "theirs_s", "theirs_25_s"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each folder with 84 pictures"""
    root = tmp_path_factory.mktemp("folders")
    return {name: own_folders.write(root / name, name, count=84) for name in own_folders.FOLDERS}


@pytest.mark.parametrize(
    "name, classes, notes",
    [
        ("solar cells", 4, ""),
        ("seven things", 7, "grey, photo, poster, relief each hold the same 7 folders"),
        ("cut out", 3, "parts that are given: train, val"),
    ],
)
def test_a_folder_is_read_as_it_was_meant(folders, name, classes, notes):
    data = image_folder.load(folders[name], size=16, guess=True, allow_missing=True)
    assert len(data.classes) == classes and notes in "".join(data.notes)
    assert len(data.train) + len(data.val) + len(data.test) == 84 and data.broken == ()
    labels = torch.cat([part.labels for part in (data.train, data.val, data.test)]).bincount().tolist()
    assert min(labels) >= 5 and (name == "solar cells" or max(labels) - min(labels) <= 1)


def test_seven_things_are_files_of_every_kind_and_cells_and_cut_outs_of_many_sizes(folders):
    kinds, sides = Counter(), {name: set() for name in folders}
    for name, root in folders.items():
        for path in root.rglob("*.*"):
            with Image.open(path) as image:
                kinds[image.format, image.mode] += 1
                sides[name].add(min(image.size))
    assert {("JPEG", "CMYK"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("PNG", "RGB"), ("JPEG", "L")} <= set(kinds)
    assert any(file_format == "PNG" and mode.startswith("I") for file_format, mode in kinds)
    assert all(len(found) > 20 for found in sides.values())


def test_the_cells_are_the_notebooks_own_up_to_a_kept_model_without_exercises():
    some, every = own_pictures.cells(own_pictures.KEPT), own_pictures.cells("")
    assert [c.line for c in some] == [c.line for c in every][: len(some)] and len(every) > len(some) + 5
    source = own_pictures.NOTEBOOK.read_text(encoding="utf-8").splitlines()
    for cell in every:
        lines = cell.source.splitlines()
        assert source[cell.line : cell.line + len(lines)] == lines
        assert "check(" not in cell.source
    assert "FOLDER = None" in some[1].source and "kept =" in some[-1].source
    with pytest.raises(ValueError, match="has no text with 'nowhere'"):
        own_pictures.cells("nowhere")


def test_a_row_is_of_the_same_test_pictures_and_comes_out_again(folders):
    rows = [own_pictures.compared(folders["cut out"], 1, epochs=1, **SMALL) for _ in range(2)]
    assert {k: v for k, v in rows[0].items() if k not in SECONDS} == {
        k: v for k, v in rows[1].items() if k not in SECONDS
    }
    row = rows[0]
    assert row["network"] == "squeezenet1_1" and row["trained_on"] == 63 and row["tested"] in (10, 11)
    assert row["theirs_25_s"] == pytest.approx(25 * row["theirs_s"], abs=1.3) and row["ours_s"] > 0


def test_the_tutorials_loop_learns_and_sees_16_bits_as_greys(folders, tmp_path):
    for k in range(2):
        for i in range(12):
            grey = np.full((40, 40), 60_000 * k, np.uint16) + np.arange(40, dtype=np.uint16) * 90 + i
            path = tmp_path / "ab"[k] / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(grey).save(path)
    with Image.open(tmp_path / "b" / "0.png") as image:
        seen = np.asarray(own_pictures.in_8_bits(image).convert("RGB"))
    assert seen[3, 5].tolist() == [int((60_000 + 450) / 257)] * 3
    data = image_folder.load(tmp_path, size=32, bits=16)
    said, seconds = own_pictures.tutorial(tmp_path, data, "squeezenet1_1", seed=0, epochs=3)
    assert torch.equal(said, data.test.labels) and seconds > 0


def test_difference_and_ratio_by_hand():
    rows = [
        {"ours": "0.9", "theirs": "0.8", "ours_s": "10", "theirs_25_s": "50"},
        {"ours": "0.7", "theirs": "0.7", "ours_s": "30", "theirs_25_s": "50"},
        {"ours": "0.8", "theirs": "0.75", "ours_s": "10", "theirs_25_s": "100"},
    ]
    found, half = own_pictures.difference(rows), 4.302653 * 0.05 / np.sqrt(3)  # t of 2 degrees of freedom; s = 0.05
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.05 - half, 0.05 + half), abs=1e-6)
    assert own_pictures.ratio(rows) == 4
