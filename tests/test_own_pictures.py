"""What notebook 15 stands on beside its checks: judged networks, kept models, corners, ways of resizing."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from sftlib.datasets import PictureSplit, Splits, loader, solar_cells
from sftlib.datasets.drawn_shapes import CLASSES, draw
from sftlib.datasets.messy_folder import Planted
from sftlib.export import by_resize, export
from sftlib.features import extract, knn_accuracy, out_of_fold
from sftlib.metrics import reliability
from sftlib.model.files import load_safely, save_atomically
from sftlib.plotting import reliability as plot_reliability
from sftlib.strategies import judge, load_trained, new, save_trained


@pytest.fixture(scope="module")
def shapes():
    pictures = torch.stack(
        [torch.from_numpy(draw(i % 5, np.random.default_rng([7, i]))).permute(2, 0, 1) for i in range(61)]
    )
    part = PictureSplit(pictures, torch.arange(61) % 5, tuple(map(str, range(61))))
    return Splits(part, part.subset([]), part.subset([]), CLASSES)


def test_a_judged_network_is_its_probes_on_pictures_that_they_did_not_see(shapes):
    found = judge("squeezenet1_1", shapes, size=64, budget_s=1e6)
    z, y = extract(found.f, loader(shapes.train, found.f.preprocess, batch_size=50))
    assert torch.equal(found.z, z) and torch.equal(found.y, shapes.train.labels)
    assert torch.equal(found.p, out_of_fold(z, y, num_classes=5, l2=0.1)) and found.seconds > 0
    assert found.right.tolist() == (found.p.argmax(1) == y).double().tolist()
    assert found.neighbours == knn_accuracy(z, y, k=5)
    assert judge("squeezenet1_1", shapes, size=64, budget_s=1e-6) is None


def test_without_a_network_means_of_blocks_of_pixels_are_judged(shapes):
    n, channels, side = shapes.train.pictures.shape[:3]
    blocks = shapes.train.pictures.double().view(n, channels, 8, side // 8, 8, side // 8).mean((3, 5))
    found = judge(None, shapes, size=8, budget_s=1e6, seed=3)
    torch.testing.assert_close(found.z.double(), blocks.flatten(1), rtol=1e-5, atol=1e-3)
    assert torch.equal(found.p, out_of_fold(found.z, shapes.train.labels, num_classes=5, l2=0.1, seed=3))
    assert found.right.tolist() == (found.p.argmax(1) == shapes.train.labels).double().tolist()


@pytest.mark.parametrize("strategy, size", [("lora", 64), ("full", None)])
def test_a_kept_model_comes_back_with_its_classes_and_size(strategy, size, tmp_path):
    torch.manual_seed(3)
    model = new("squeezenet1_1", strategy, 3, size=64).eval()
    path = save_trained(tmp_path / "run" / "best.pt", model, strategy, ["a", "b", "c"], size=size)
    again, classes, read_at = load_trained(path)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert classes == ["a", "b", "c"] and read_at == size and not again.training


def test_what_was_kept_by_another_version_or_by_others_is_refused(tmp_path):
    model = new("squeezenet1_1", "probe", 3, size=64)
    path = save_trained(tmp_path / "best.pt", model, "probe", ["a", "b", "c"], size=64)
    state = load_safely(path)
    state["settings"]["preprocess"] = "another"
    save_atomically(state, path)
    with pytest.raises(ValueError, match="was trained on pictures prepared by another"):
        load_trained(path)
    save_atomically({"model": state["model"]}, path)
    with pytest.raises(ValueError, match="was not written by"):
        load_trained(path)


def test_of_corner_cells_only_the_corners_differ_from_one_to_the_next():
    data, mask = solar_cells.corners_only(size=40, count=40)
    assert [len(p) for p in (data.train, data.val, data.test)] == [20, 10, 10] and mask.dtype is torch.bool
    pictures = torch.cat([data.train.pictures, data.test.pictures])
    assert (pictures[:, :, ~mask] == pictures[:1, :, ~mask]).all() and (pictures[:, :, mask].float().std(0) > 0).any()
    assert mask[0, 0] and mask[-1, -1] and not mask[20, 20] and torch.equal(mask, mask.T) and 0.05 < mask.float().mean()
    own = solar_cells.load(task="cell_type", size=40).train
    assert (
        torch.equal(data.train.pictures[3][:, mask], own.pictures[3][:, mask]) and data.train.names[3] == own.names[3]
    )


def test_planted_faults_are_counted_whichever_way_round_a_pair_is_named():
    planted = Planted(copies={"a": "b", "c": "d"}, dark=["e"], blurred=["f", "g"])
    found = planted.found(["e", "f", "x"], [("b", "a"), ("c", "x")])
    assert found == {"copies": (1, 2), "dark": (1, 1), "blurred": (1, 2), "odd": (0, 0)}


def test_ways_of_resizing_agree_on_pictures_that_need_none_and_differ_where_it_matters(tmp_path):
    torch.manual_seed(0)
    model = new("squeezenet1_1", "probe", 3, size=64)
    shape = Image.fromarray(draw(1, np.random.default_rng(1)))
    shape.save(tmp_path / "as_is.png")
    shape.resize((300, 170)).save(tmp_path / "wide.png")
    pictures = torch.from_numpy(np.array(shape)).permute(2, 0, 1)[None]
    export(model, tmp_path / "model", classes=["a", "b", "c"], pictures=pictures)
    found = by_resize(model, tmp_path / "model", [tmp_path / "as_is.png", tmp_path / "wide.png"])
    exported, course, careless = (found[way] for way in ("exported", "course", "careless"))
    assert torch.allclose(exported[0], course[0], atol=1e-5) and torch.allclose(exported[0], careless[0], atol=1e-5)
    gaps = [(q[1] - exported[1]).abs().max().item() for q in (course, careless)]
    assert 0 < gaps[0] < gaps[1]


def test_the_plot_of_reliability_shows_each_bin_and_how_many_it_holds():
    z = torch.randn(97, 3, generator=torch.Generator().manual_seed(0))
    said, was, n = reliability(z.softmax(1), torch.arange(97) % 3, bins=5)
    _, ax = plt.subplots()
    assert plot_reliability(ax, said, was, n, title="t") is ax
    assert np.allclose(ax.lines[1].get_xydata(), np.stack([said, was], 1))
    assert [t.get_text() for t in ax.texts] == [str(int(v)) for v in n]
    plt.close("all")
