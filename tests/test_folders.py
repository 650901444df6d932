"""The folder with planted faults, and parts of what was loaded."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from sftlib.datasets import PictureSplit, Splits, image_folder, messy_folder
from sftlib.datasets.image_folder import with_all_parts, without
from sftlib.inspection import look_over


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    root = tmp_path_factory.mktemp("messy")
    return root, messy_folder.write(root, seed=3, count=150)


def test_what_was_planted_is_there(messy):
    root, planted = messy
    files = {p.relative_to(root).as_posix() for p in root.rglob("*.*")}
    assert len(files) == 150 + round(0.04 * 150) + 1
    named = [*planted.labels, *planted.copies, *planted.copies.values(), *planted.broken, *planted.dark,
             *planted.blurred, *planted.odd]  # fmt: skip
    assert set(named) <= files and {p.name for p in root.iterdir()} == set(messy_folder.CLASSES)
    assert len(planted.labels) == round(0.05 * 150) and all(n.split("/")[0] != c for n, c in planted.labels.items())
    across = [copy for copy, of in planted.copies.items() if copy.split("/")[0] != of.split("/")[0]]
    assert len(across) == 2 and len(planted.broken) == 2
    with Image.open(root / planted.odd[1]) as image:
        assert image.size == (1500, 1500)


def test_the_same_seed_plants_the_same(messy, tmp_path):
    root, planted = messy
    assert messy_folder.write(tmp_path, seed=3, count=150) == planted
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes()


def test_it_is_made_once_and_then_found(monkeypatch, tmp_path):
    monkeypatch.setattr(messy_folder.runtime, "cache_folder", lambda: tmp_path)
    first = messy_folder.folder(seed=1, count=100)
    monkeypatch.setattr(messy_folder, "write", None)
    assert messy_folder.folder(seed=1, count=100) == first
    with pytest.raises(ValueError, match="got count=99"):
        monkeypatch.undo()
        messy_folder.write(tmp_path / "x", count=99)


def test_a_look_finds_what_was_planted(messy):
    root, planted = messy
    data = image_folder.load(root, size=96, skip_broken=True, allow_duplicates=True)
    assert {line.split(":")[0] for line in data.broken} == set(planted.broken)
    seen = look_over(data, root)
    pairs = {frozenset((r.file, r.other)) for r in seen if r.kind.startswith("copy")}
    assert {frozenset(pair) for pair in planted.copies.items()} <= pairs
    assert set(planted.dark) <= {r.file for r in seen.of("dark")}
    assert set(planted.blurred) <= {r.file for r in seen.of("blurred")}
    assert set(planted.odd) <= {r.file for r in seen.of("odd size", "odd shape")}


def splits(train, val, test, K=3):
    parts = []
    for name, n in (("train", train), ("val", val), ("test", test)):
        pictures = torch.zeros(n, 3, 5, 5, dtype=torch.uint8)
        parts.append(PictureSplit(pictures, torch.arange(n) % K, tuple(f"{name}{i}" for i in range(n))))
    return Splits(*parts, ("a", "b", "c"))


def test_half_of_validation_becomes_the_test_part_where_there_is_none():
    data = splits(11, 13, 0)
    found = with_all_parts(data, seed=1)
    assert sorted((*found.val.names, *found.test.names)) == sorted(data.val.names) and len(found.test) in (6, 7)
    for k in range(3):
        counts = [int((part.labels == k).sum()) for part in (found.val, found.test)]
        assert abs(counts[0] - counts[1]) <= 1
    assert with_all_parts(found) is found and found.train is data.train
    with pytest.raises(ValueError, match="got 1 picture.* in val and none in test"):
        with_all_parts(splits(11, 1, 0))


@pytest.mark.parametrize("tests", [0, 30])
def test_a_validation_part_is_dealt_out_of_training_and_a_given_test_part_stays(tests):
    data = splits(85, 0, tests)
    found = with_all_parts(data, seed=1)
    assert len(found.train) == 70 and len(found.val) == (15 if tests else 8) and len(found.test) == (tests or 7)
    names = [n for part in (found.train, found.val, found.test) for n in part.names]
    assert sorted(names) == sorted((*data.train.names, *data.test.names))
    assert found.test is data.test or not tests


def test_what_belongs_together_is_dealt_out_together():
    data = splits(0, 44, 0)
    found = with_all_parts(replace(data, train=data.val), groups=lambda path: int(path.name[3:]) // 4)
    numbers = [{int(n[3:]) // 4 for n in part.names} for part in (found.val, found.test)]
    assert not numbers[0] & numbers[1] and len(numbers[0] | numbers[1]) == 11 and min(map(len, numbers)) >= 4


def test_pictures_are_left_out_by_name_and_strangers_refused():
    data = splits(11, 7, 5)
    found = without(data, ["train3", "test0", "train3"])
    assert found.train.names == tuple(n for n in data.train.names if n != "train3") and len(found.train.pictures) == 10
    assert found.train.labels.tolist() == [i % 3 for i in range(11) if i != 3]
    assert found.val.names == data.val.names and found.test.names == data.test.names[1:]
    with pytest.raises(ValueError, match="got 'train99' to leave out"):
        without(data, ["val0", "train99"])
