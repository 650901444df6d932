"""solar_cells against the package's files, read here another way."""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sftlib import runtime
from sftlib.datasets import solar_cells

SIZE = 31
SIZES = [1667, 222, 334]
FOLDER = Path(find_spec("elpv_dataset").submodule_search_locations[0]) / "data"
ROWS = {p: (float(probability), kind) for p, probability, kind in np.loadtxt(FOLDER / "labels.csv", dtype=str)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    """one cold decoding for the whole file, and none into the project's own cache"""
    monkeypatch.setattr(runtime, "cache_folder", lambda: cache)


def parts(splits):
    return [splits.train, splits.val, splits.test]


def test_default_task_is_the_certain_pictures_in_75_10_15_percent():
    splits = solar_cells.load(size=SIZE)
    assert splits.classes == ("functional", "defective")
    assert sum(map(len, parts(splits))) == 2223
    assert list(map(len, parts(splits))) == SIZES
    for split in parts(splits):
        assert split.pictures.shape == (len(split), 3, SIZE, SIZE) and split.pictures.dtype == torch.uint8
        assert split.labels.tolist() == [int(ROWS[name][0]) for name in split.names]


def test_every_split_has_the_same_mixture_of_defects_and_types():
    whole = Counter(row for row in ROWS.values() if row[0] in (0, 1))
    for split, share in zip(parts(solar_cells.load(size=SIZE)), (0.75, 0.10, 0.15), strict=True):
        mixture = Counter(ROWS[name] for name in split.names)
        assert all(abs(mixture[row] - share * n) < 2 for row, n in whole.items())


def test_cell_type_is_another_label_of_the_same_pictures_in_the_same_splits():
    defect, kind = solar_cells.load(size=SIZE), solar_cells.load(size=SIZE, task="cell_type")
    assert kind.classes == ("mono", "poly")
    for a, b in zip(parts(defect), parts(kind), strict=True):
        assert a.names == b.names and torch.equal(a.pictures, b.pictures)
        assert b.labels.tolist() == [("mono", "poly").index(ROWS[name][1]) for name in b.names]
        assert torch.equal(a.types, b.labels)


def test_uncertain_pictures_join_the_split_that_the_certain_ones_have():
    certain, every = solar_cells.load(size=SIZE), solar_cells.load(size=SIZE, certain_only=False)
    assert sum(map(len, parts(every))) == 2624
    for a, b in zip(parts(certain), parts(every), strict=True):
        assert set(a.names) < set(b.names)
        assert b.labels.tolist() == [int(ROWS[name][0] > 0.5) for name in b.names]
        assert b.probabilities.tolist() == pytest.approx([ROWS[name][0] for name in b.names])


def test_types_filter_one_and_the_same_split():
    both, mono, poly = (solar_cells.load(size=SIZE, types=t) for t in (("mono", "poly"), ("mono",), ("poly",)))
    for a, b, c in zip(parts(both), parts(mono), parts(poly), strict=True):
        assert {ROWS[name][1] for name in b.names} == {"mono"} and {ROWS[name][1] for name in c.names} == {"poly"}
        assert sorted(a.names) == sorted(b.names + c.names)


def test_published_protocol_is_three_quarters_and_a_quarter():
    splits = solar_cells.load(size=SIZE, certain_only=False, fractions=(0.75, 0, 0.25))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1968, 0, 656)


def test_seed_decides_the_split():
    first, again, other = (solar_cells.load(size=SIZE, seed=s) for s in (0, 0, 1))
    assert first.test.names == again.test.names != other.test.names


def test_split_of_seed_0_is_the_same_on_every_machine():
    """the tables of results in data/ hold numbers for these pictures"""
    names = solar_cells.load(size=SIZE).test.names
    assert [n[11:15] for n in names[:5]] == ["0003", "0010", "0013", "0016", "0017"]


def test_pictures_are_those_of_the_files_resized_with_antialiasing():
    test = solar_cells.load(size=SIZE).test
    for i in (0, 101, 211):
        with Image.open(FOLDER / test.names[i]) as image:
            expected = np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        assert (test.pictures[i].numpy() == expected).all()
        assert test[i][0].shape == (3, SIZE, SIZE)


def test_at_its_own_size_nothing_is_resampled():
    names = tuple(list(ROWS)[::500])
    with Image.open(FOLDER / names[1]) as image:
        expected = np.array(image)
    assert (solar_cells._read(FOLDER / names[1], 300)[1] == expected).all()


def test_cache_is_used_and_a_damaged_one_is_made_anew(cache, monkeypatch):
    expected = solar_cells.load(size=SIZE).val.pictures
    (path,) = cache.glob("solar_cells_*_31.npy")
    whole, calls = path.read_bytes(), []
    grey = np.load(path)
    monkeypatch.setattr(solar_cells, "_decode_all", lambda names, side: calls.append(side) or grey)
    assert torch.equal(solar_cells.load(size=SIZE).val.pictures, expected) and calls == []
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    for damaged in (whole[:-1], whole[:1000], b"", b"no array", bytes(flipped)):
        path.write_bytes(damaged)
        calls.clear()
        assert torch.equal(solar_cells.load(size=SIZE).val.pictures, expected)
        assert calls == [SIZE] and path.read_bytes() == whole
    assert [p.name for p in cache.iterdir()] == [path.name]  # nothing half written stays


def test_cache_never_unpickles(cache):
    path = cache / "objects.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert solar_cells._read_cache(path, (1,)) is None


def test_without_a_place_to_write_everything_still_works(monkeypatch, tmp_path):
    def refuse():
        raise PermissionError("read-only")

    monkeypatch.setattr(solar_cells, "_decode_all", lambda names, side: np.zeros((len(names), 1, side, side), "u1"))
    monkeypatch.setattr(runtime, "cache_folder", refuse)
    assert len(solar_cells.load(size=3).train) > 0
    monkeypatch.setattr(runtime, "cache_folder", lambda: tmp_path / "missing")
    assert len(solar_cells.load(size=3).train) > 0


def a_copy_of_the_package(monkeypatch, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_bytes((FOLDER / "labels.csv").read_bytes())
    monkeypatch.setattr(solar_cells, "_package_folder", lambda: tmp_path)
    return tmp_path


def test_other_labels_than_the_published_ones_are_an_error(monkeypatch, tmp_path):
    folder = a_copy_of_the_package(monkeypatch, tmp_path)
    (folder / "labels.csv").write_bytes((FOLDER / "labels.csv").read_bytes().replace(b"mono", b"poly", 1))
    with pytest.raises(ValueError, match=r"elpv-dataset: labels.csv has sha256 .* pip install --force-reinstall"):
        solar_cells.load(size=SIZE)


def test_another_picture_than_the_published_one_is_an_error(monkeypatch, tmp_path):
    folder = a_copy_of_the_package(monkeypatch, tmp_path)
    names = list(ROWS)[:3]
    for name in names:
        Image.new("L", (300, 300)).save(folder / name)
    with pytest.raises(ValueError, match="the picture files has sha256"):
        solar_cells._decode_all(names, 5)


@pytest.mark.parametrize("data, words", [(None, "cannot be opened"), (b"", "an empty file"), (b"x", "no picture")])
def test_missing_and_damaged_pictures_are_named(monkeypatch, tmp_path, data, words):
    folder = a_copy_of_the_package(monkeypatch, tmp_path)
    if data is not None:
        (folder / "images" / "cell0001.png").write_bytes(data)
    with pytest.raises(ValueError, match=f"cell0001.png .*{words}.*pip install"):
        solar_cells._decode_all(["images/cell0001.png"], 5)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(solar_cells, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install elpv-dataset"):
        solar_cells.load(size=SIZE)


def test_the_package_is_read_without_running_it(monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    solar_cells.load(size=SIZE)
    assert "elpv_dataset" not in sys.modules


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "colour"}, {"size": 0}, {"size": 1.5}, {"size": 10**6}, {"types": "mono"}, {"types": ()},
        {"types": ("x",)}, {"fractions": (0.8, 0.2)}, {"fractions": (0.25, 0.25, 0.25, 0.25)},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        solar_cells.load(**{"size": SIZE, **settings})


def test_cache_file_can_be_read_by_others(cache):
    solar_cells.load(size=SIZE)
    (path,) = cache.glob("solar_cells_*_31.npy")
    umask = os.umask(0)
    os.umask(umask)
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o666 & ~umask
