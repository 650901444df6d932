"""The parts of a detector: anchors for one's boxes, the map that a proposal is read from, targets that are checked."""

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_iou

from sftlib.adaptation import freeze
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader
from sftlib.model import LinearHead, Model
from sftlib.model.cached_maps import above_the_body, cached
from sftlib.model.detection import NearestLevel, anchors_for, detector, every_anchor, sum_of_losses
from sftlib.model.targets import check_targets
from sftlib.runtime import Precision
from sftlib.training import fit

H, W, K = 97, 131, 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return detector(load_backbone("squeezenet1_1", pretrained=False), K, channels=11, hidden=13)


def target(boxes=((3, 5, 29, 71),), labels=(1,)):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels)}


def empty():
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}


# ------------------------------------------------------------------------------------------------------------- anchors


def test_anchors_lie_at_the_middles_of_equal_parts_of_the_boxes():
    sides = torch.arange(1.0, 61.0)  # squares of 1 to 60 pixels
    boxes = torch.stack([sides * 0, sides * 0, sides, 4 * sides], dim=1)
    anchors, ratios = anchors_for(boxes, levels=3, each=2, ratios=1)
    assert [len(level) for level in anchors] == [2, 2, 2] and ratios == (4.0,)
    found = [side for level in anchors for side in level]
    assert found == pytest.approx([2 * (1 + 59 * (i + 0.5) / 6) for i in range(6)], abs=0.01)


def test_anchors_for_boxes_of_many_shapes_overlap_them():
    rand = torch.Generator().manual_seed(3)
    side, ratio = 8 * 2 ** (4 * torch.rand(211, generator=rand)), 1 + 2 * torch.rand(211, generator=rand)
    size = torch.stack([side / ratio.sqrt(), side * ratio.sqrt()], dim=1)
    boxes = torch.cat([-size / 2, size / 2], dim=1)
    anchors, ratios = anchors_for(boxes, levels=3, each=2, ratios=2)
    assert sorted(ratios) == list(ratios) and 1 < ratios[0] < ratios[1] < 3
    w, h = zip(*((s / math.sqrt(r), s * math.sqrt(r)) for level in anchors for s in level for r in ratios), strict=True)
    own = torch.tensor([w, h]).T / 2
    assert (box_iou(boxes, torch.cat([-own, own], dim=1)).max(1).values > 0.5).float().mean() > 0.95


@pytest.mark.parametrize("boxes", [torch.zeros(5, 4), torch.zeros(7, 5), torch.zeros(9)])
def test_too_few_boxes_for_anchors_are_refused(boxes):
    with pytest.raises(ValueError, match=r"expected \(n, 4\), at least 6"):
        anchors_for(boxes)


def test_every_anchor_is_that_of_the_generator_at_each_place(model):
    anchors = every_anchor(model, 96, 128)  # sizes that are not padded
    one = torch.cat([AnchorGenerator(((s,),), ((r,),)).cell_anchors[0] for s in (16, 24) for r in (1.0, 2.5)])
    first = anchors[: len(one)]
    assert torch.equal(first.sort(0).values, one.sort(0).values)  # at (0, 0)
    assert torch.equal(anchors[len(one) : 2 * len(one)] - first, torch.tensor([4.0, 0, 4, 0]).expand(4, 4))
    largest = (anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt().max()
    assert 119 < largest < 121


@pytest.mark.parametrize("anchors", [((16, 32), (48, 64)), ((16,), (32, 48), (64,)), ((96, 160), (48, 64), (16, 32)),
                                     ((0, 16), (32, 48), (64, 80))])  # fmt: skip
def test_anchors_that_do_not_fit_the_stages_are_refused(anchors):
    with pytest.raises(ValueError, match="for each as many sides, as a tuple, the smallest first"):
        detector(load_backbone("squeezenet1_1", pretrained=False), K, anchors=anchors)


# ---------------------------------------------------------------------------------------- where a proposal is read from


def test_a_box_belongs_to_the_map_whose_anchors_are_nearest():
    anchors = ((7.0, 11.0), (23.0, 31.0), (61.0, 89.0))
    level = NearestLevel([(11 * 23) ** 0.5, (31 * 61) ** 0.5])
    for number, sides in enumerate(anchors):
        for side in sides:
            box = torch.tensor([[5.0, 3.0, 5 + side / 2, 3 + 2 * side]])  # twice as high as side, half as wide
            assert level([box]).tolist() == [number]
    boxes = [torch.tensor([[0.0, 0, 5, 5], [0, 0, 100, 100]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 30, 30]])]
    assert level(boxes).tolist() == [0, 2, 1]


def test_small_pictures_do_not_change_what_is_read(model):
    """torchvision infers the maps' scales from the first batch; a picture of 33 pixels, padded to 64, gave it 1/2"""
    pooling = model.head.roi_heads.box_roi_pool
    assert isinstance(pooling, MultiScaleRoIAlign) and model.backbone.strides == [4, 8, 16]
    with torch.no_grad():
        model.eval()(([torch.randn(3, 33, 35)], None))
    assert pooling.scales == [1 / 4, 1 / 8, 1 / 16]
    assert set(pooling.map_levels([torch.tensor([[0.0, 0, 20, 20], [0, 0, 45, 45], [0, 0, 100, 100]])]).tolist()) == {
        0, 1, 2
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- targets

FAULTS = {
    "flat": (target(((3, 5, 3, 71),)), r"picture 1 of the batch: got box 0 = \[3.0, 5.0, 3.0, 71.0\].* x1 < x2"),
    "turned round": (target(((29, 71, 3, 5),)), "x1 < x2 and y1 < y2"),
    "not a number": (target(((3, 5, float("nan"), 71),)), "x1 < x2"),
    "infinite": (target(((3, 5, float("inf"), 71),)), "x1 < x2"),
    "second box outside": (target(((3, 5, 29, 71), (100, 5, 140, 71)), (1, 1)), "got box 1 = .* inside the picture"),
    "left of it": (target(((-9, 5, 29, 71),)), "131 x 97 pixels; expected .* inside"),
    "width and height": (target(((60, 50, 20, 30), (3, 5, 90, 80)), (1, 2)), "are they x, y, width, height"),
    "from 0": (target(((3, 5, 29, 71), (3, 5, 19, 71)), (0, 1)), "labels from 0 to 1; expected 1 … 2 .*count from 1"),
    "a class too many": (target(labels=(3,)), "labels from 3 to 3; expected 1 … 2 .*num_classes is 3"),
    "one number a box": ({"boxes": torch.ones(7), "labels": torch.ones(7).long()}, r"got boxes \(7,\)"),
    "whole numbers": ({"boxes": torch.tensor([[3, 5, 29, 71]]), "labels": torch.tensor([1])}, "floating point"),
    "two labels": (target(labels=(1, 2)), r"got labels \(2,\).*for 1 boxes"),
    "labels as floats": ({**target(), "labels": torch.tensor([1.0])}, "expected int64"),
    "no labels": ({"boxes": torch.zeros(0, 4)}, r"got a target with \['boxes'\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_target_is_named_before_anything_is_learned(model, fault):
    wrong, words = FAULTS[fault]
    pictures = [torch.randn(3, H, W) for _ in range(2)]
    with pytest.raises(ValueError, match=words):
        model.train()((pictures, [target(), wrong]))


def test_rounding_at_the_edge_and_pictures_of_their_own_sizes_are_right():
    check_targets([target(((-0.5, 0, W + 0.5, H),)), target(((0, 0, 40, 30),))], [(H, W), (30, 40)], K)
    check_targets([empty(), empty()], [(H, W), (30, 40)], K)
    with pytest.raises(ValueError, match="picture 1 of the batch"):
        check_targets([target(), target()], [(H, W), (30, 40)], K)  # inside the first, outside the second
    with pytest.raises(ValueError, match="got 1 targets for 2 pictures"):
        check_targets([target()], [(H, W), (30, 40)], K)


@pytest.mark.parametrize("some", [(), (1,)])
def test_pictures_without_an_object_are_learned_from(model, some):
    pictures = [torch.randn(3, H, W) for _ in range(3)]
    targets = [target() if i in some else empty() for i in range(3)]
    model.zero_grad()
    losses = model.train()((pictures, targets))
    loss = sum_of_losses(losses, targets)
    loss.backward()
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert loss.isfinite() and (losses["loss_box_reg"] > 0) == bool(some)
    assert model.head.rpn.head.cls_logits.weight.grad.abs().sum() > 0


# -------------------------------------------------------------------------------------------------- a frozen body


@pytest.fixture
def frozen():
    torch.manual_seed(5)
    model = detector(load_backbone("squeezenet1_1", pretrained=False), K, channels=11, hidden=13)
    freeze(model.backbone.body)
    return model


def pairs(sizes=((H, W),) * 5):
    pictures = [torch.randn(3, *size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)]
    targets = [target() if i % 2 else empty() for i in range(len(sizes))]
    return [((pictures[i : i + 2], targets[i : i + 2]), targets[i : i + 2]) for i in range(0, len(sizes), 2)]


def test_maps_computed_once_give_what_pictures_give(frozen):
    x, y = cached(frozen, pairs())
    upper = above_the_body(frozen)
    (pictures, targets), _ = pairs()[1]
    rows = torch.tensor([2, 3])
    some, _ = NestSplit(x, y).batch(rows)
    with torch.no_grad():
        for whole, part in zip(frozen.eval()((pictures, targets)), upper.eval()(some), strict=True):
            assert all(torch.allclose(whole[k], part[k], atol=1e-5) for k in ("boxes", "scores")), whole
        losses = []
        for model, given in ((frozen, (pictures, targets)), (upper, some)):
            torch.manual_seed(7)  # which anchors are sampled
            losses.append(model.train()(given))
    assert all(losses[0][k].item() == pytest.approx(losses[1][k].item(), rel=1e-4) for k in losses[0])


def test_what_learns_from_maps_is_the_detector_itself(frozen):
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    upper, loader = above_the_body(frozen), nest_loader(NestSplit(*cached(frozen, pairs())), batch_size=2)
    optimizer = torch.optim.SGD(upper.parameters(), lr=1e-3)
    for _ in fit(upper, loader, optimizer, epochs=1, task_loss=sum_of_losses, terms=None, metric=None):
        pass
    moved = {name for name, value in frozen.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("backbone.body") for name in moved)
    assert any(name.startswith("backbone.pyramid") for name in moved) and any(n.startswith("head.rpn") for n in moved)


def test_what_cannot_be_cached_is_refused(frozen, model):
    with pytest.raises(ValueError, match="a body that learns"):
        cached(model, pairs())
    with pytest.raises(ValueError, match="expected one size"):
        cached(frozen, pairs(((97, 131), (97, 131), (97, 163))))
    with pytest.raises(ValueError, match=r"expected a model of detector"):
        above_the_body(Model(load_backbone("squeezenet1_1", pretrained=False), LinearHead(512, K)))


def test_maps_of_sixteen_bits_have_a_fingerprint(frozen):
    splits = [NestSplit(*cached(frozen, pairs()[:n], precision=Precision(torch.bfloat16))) for n in (1, 1, 2)]
    assert splits[0].x[0]["stem"].dtype == torch.bfloat16
    assert splits[0].fingerprint == splits[1].fingerprint != splits[2].fingerprint
