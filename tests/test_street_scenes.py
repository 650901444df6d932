"""Drawn streets: exact boxes, masks and class maps; too varied for a constant answer; augmentation by drawing"""

import numpy as np
import pytest
import torch
from torch import Generator
from torchvision.ops import box_iou, masks_to_boxes

from sftlib.backbones import load_backbone
from sftlib.datasets import nest_loader, street_scenes
from sftlib.datasets.scene_augment import SceneChain, SceneCrop, cropped, flip
from sftlib.datasets.scenes import ForDetection, ForSegmentation, Scene, SceneSplit, boxes_around, boxes_of, resized
from sftlib.datasets.street_scenes import CLASSES, KINDS
from sftlib.datasets.street_scenes.view import CAR, PEDESTRIAN, Canvas, Layer, Pen, View, visible
from sftlib.metrics import AveragePrecision, MeanIoU
from sftlib.model.detection import detector, sum_of_losses
from sftlib.model.segmentation import segmenter
from sftlib.training import evaluate, fit

W, H = 163, 127
ALL = tuple(KINDS)


@pytest.fixture(scope="module")
def streets():
    """Splits of 97 small streets to learn from and 61 to be measured on"""
    return street_scenes.load(size=(W, H), seed=3, numbers=(97, 0, 61), objects=ALL)


# ------------------------------------------------------------------------------------------------------ one picture


def test_a_scene_is_a_function_of_seed_and_row():
    first, again = (street_scenes.draw(5, 11, size=(W, H)) for _ in range(2))
    assert torch.equal(first.picture, again.picture) and torch.equal(first.class_map, again.class_map)
    assert torch.equal(first.boxes, again.boxes) and torch.equal(first.objects, again.objects)
    for other in (street_scenes.draw(5, 12, size=(W, H)), street_scenes.draw(6, 11, size=(W, H))):
        assert (first.picture != other.picture).float().mean() > 0.5


@pytest.mark.parametrize("size", [(W, H), (320, 240), (97, 131)])
def test_sizes_and_types(size):
    splits = street_scenes.load(size=size, numbers=(2, 1, 1))
    picture, target = splits.train[1]
    assert picture.shape == (3, size[1], size[0]) and picture.dtype == torch.uint8
    assert target["boxes"].dtype == torch.float32 and target["boxes"].shape == (len(target["labels"]), 4)
    assert target["masks"].shape == (len(target["labels"]), size[1], size[0]) and target["masks"].dtype == torch.bool
    assert target["class_map"].shape == (size[1], size[0]) and target["class_map"].dtype == torch.uint8
    assert splits.classes == CLASSES and splits.objects == ("background", "pedestrian")


def test_boxes_hold_exactly_what_is_seen(streets):
    for i in range(len(streets.train)):
        _, target = streets.train[i]
        if len(target["boxes"]):
            expected = masks_to_boxes(target["masks"]) + torch.tensor(
                [0, 0, 1, 1]
            )  # torchvision ends at the last pixel
            assert torch.equal(target["boxes"], expected)
            assert target["masks"].sum(0).max() == 1  # no pixel is two objects'
        assert target["masks"].flatten(1).sum(1).ge(20).all()


def test_every_pixel_of_a_person_car_or_bicycle_has_a_box(streets):
    for i in range(len(streets.train)):
        _, target = streets.train[i]
        for label, name in enumerate(ALL, start=1):
            masks = target["masks"][target["labels"] == label]
            assert torch.equal(masks.any(0), target["class_map"] == CLASSES.index(name))


def test_objects_that_are_not_asked_for_have_no_box_and_stay_in_the_picture(streets):
    few = street_scenes.load(size=(W, H), seed=3, numbers=(31, 0, 0))
    counted = 0
    for i in range(len(few.train)):
        (picture, target), (same, full) = few.train[i], streets.train[i]
        assert torch.equal(picture, same) and torch.equal(target["class_map"], full["class_map"])
        assert torch.equal(target["boxes"], full["boxes"][full["labels"] == 1 + ALL.index("pedestrian")])
        counted += len(full["boxes"]) - len(target["boxes"])
    assert counted > 20


def test_splits_share_no_picture_and_seeds_do_not_meet():
    splits = [street_scenes.load(size=(W, H), seed=seed, numbers=(3, 3, 3)) for seed in (0, 1)]
    pictures = [part[i][0] for s in splits for part in (s.train, s.val, s.test) for i in range(3)]
    sums = {picture.long().sum().item() for picture in pictures}
    assert len(sums) == len(pictures)
    assert len({part.fingerprint for s in splits for part in (s.train, s.val, s.test)}) == 6


# ------------------------------------------------------------------------------------------------- geometry, depth


def test_street_and_camera_places_are_inverse():
    view = View(W, H, 150.0, 50.0, 1.6, yaw=0.37, place=-2.3, bend=0.021)
    s, u = np.random.default_rng(0).uniform(-20, 40, (2, 43))
    assert np.allclose(view.street(*view.camera(s, u)), (s, u))


def test_a_thing_twice_as_far_is_half_as_tall():
    view = View(W, H, 150.0, 50.0, 1.6, yaw=0.0, place=0.0, bend=0.0)
    foot, head = (view.pixel(0.0, d, z)[1] for d, z in ((10.0, 0.0), (10.0, 1.8)))
    assert foot - head == pytest.approx(150 * 1.8 / 10)
    assert view.pixel(0.0, 20.0, 1.6)[1] == pytest.approx(50.0)  # eyes are on the horizon


def block(left, top, w, h, depth, kind, counted=True):
    return Layer(left, top, np.full((h, w, 3), 0.5), np.ones((h, w), np.float32), depth, kind, counted=counted)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_nearer_one_hides_whatever_was_painted_first(order):
    layers = [block(2, 3, 11, 13, 9.0, PEDESTRIAN), block(5, 7, 7, 17, 4.0, CAR), block(-3, -2, 7, 7, 6.0, CAR)]
    canvas = Canvas(*(np.zeros((29, 31, 3), np.float32) for _ in range(2)), np.zeros((29, 31), np.uint8),
                    np.full((29, 31), np.inf, np.float32))  # fmt: skip
    for i in order:
        canvas.paint(layers[i], i + 1)
    expected = np.zeros((29, 31), int)
    expected[3:16, 2:13] = 1
    expected[:5, :4] = 3
    expected[7:24, 5:12] = 2
    assert np.array_equal(canvas.objects, expected)
    counts = [(expected == i + 1).sum() for i in order]
    assert visible([layers[i] for i in order], 29, 31).tolist() == counts


def test_a_pen_fills_the_area_of_its_polygon():
    view = View(W, H, 150.0, 50.0, 1.6, 0.0, 0.0, 0.0)
    pen = Pen()
    pen.polygon([(10.0, 10.0), (40.0, 12.0), (33.0, 41.0)], (0.2, 0.4, 0.6))
    layer = pen.layer(view, 3.0, CAR)
    area = 0.5 * abs(30 * 31 - 23 * 2)
    assert layer.alpha.sum() == pytest.approx(area, rel=0.06)
    assert np.allclose(layer.colour[layer.alpha > 0.99], (0.2, 0.4, 0.6), atol=0.01)


# ------------------------------------------------------------------------------------------------ varied and hard


def test_people_come_in_many_sizes_and_a_part_of_the_pictures_has_none(streets):
    heights, empty = [], 0
    for i in range(len(streets.train)):
        _, target = streets.train[i]
        boxes = target["boxes"][target["labels"] == 1 + ALL.index("pedestrian")]
        heights += ((boxes[:, 3] - boxes[:, 1]) / H).tolist()
        empty += len(boxes) == 0
    assert 0.1 < empty / len(streets.train) < 0.4 and len(heights) > 150
    low, high = np.quantile(heights, (0.1, 0.9))
    assert low < 0.15 and high > 0.35


def test_every_class_is_there_and_none_fills_the_pictures(streets):
    maps = torch.stack([streets.train[i][1]["class_map"] for i in range(len(streets.train))])
    share = maps.flatten().bincount(minlength=len(CLASSES)) / maps.numel()
    assert (share > 0.001).all() and share.max() < 0.4


def test_the_best_constant_box_finds_next_to_nothing(streets):
    def people(part):
        targets = [part[i][1] for i in range(len(part))]
        return [t["boxes"][t["labels"] == 1 + ALL.index("pedestrian")] for t in targets]

    candidates, metric = torch.cat(people(streets.train)), AveragePrecision()
    found = (box_iou(candidates, candidates) >= 0.5).sum(1)
    best = candidates[found.argmax()][None]
    one = torch.ones(1, dtype=torch.long)
    for boxes in people(streets.test):
        labels = torch.ones(len(boxes), dtype=torch.long)
        metric.add([{"boxes": best, "scores": torch.ones(1), "labels": one}], [{"boxes": boxes, "labels": labels}])
    assert metric.values()["ap50"] < 0.1


def iou(predicted, true):
    """IoU of sums over all pictures: predicted bool (H, W), true bool (N, H, W)"""
    return ((predicted & true).sum() / (predicted | true).sum()).item()


def test_the_best_fixed_road_is_a_bad_answer(streets):
    train, test = (
        torch.stack([part[i][1]["class_map"] == CLASSES.index("road") for i in range(len(part))])
        for part in (streets.train, streets.test)
    )
    often = train.float().mean(0)  # no fixed shape does better on train than often > c for the best c
    shape = max((often > c for c in torch.linspace(0, 1, 41)), key=lambda shape: iou(shape, train))
    y, x = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
    trapezoids = [
        (y > top) & ((x - 0.5).abs() < upper + (lower - upper) * (y - top) / (1 - top))
        for top in (0.4, 0.5, 0.6) for upper in (0.02, 0.1, 0.3, 0.5) for lower in (0.3, 0.5, 0.8, 1.2)
    ]  # fmt: skip
    trapezoid = max(trapezoids, key=lambda shape: iou(shape, train))
    assert iou(trapezoid, train) <= iou(shape, train) + 0.02
    assert iou(trapezoid, test) < 0.6 and iou(shape, test) < 0.6
    assert iou(torch.zeros(H, W, dtype=torch.bool), test) == 0


# ----------------------------------------------------------------------------------------------------- for networks


def test_batches_fit_a_detector_and_a_segmenter(streets):
    rows = torch.tensor([7, 2, 5])
    examples, generator = streets.train.batch(rows), Generator().manual_seed(0)
    (x, targets), y = ForDetection(lambda p: p.float() / 255)(examples, generator)
    assert [p.shape for p in x] == [(3, H, W)] * 3 and x[0].dtype == torch.float32 and targets is y
    assert all(set(t) == {"boxes", "labels"} and t["labels"].ge(1).all() for t in y)
    x, y = ForSegmentation(lambda p: p.float() / 255)(streets.train.batch(rows), generator)
    assert x.shape == (3, 3, H, W) and y.shape == (3, H, W) and y.dtype == torch.int64
    assert torch.equal(y[1], streets.train[2][1]["class_map"].long())


def test_a_detector_learns_from_drawn_streets_and_is_measured_on_them(streets):
    torch.manual_seed(0)
    backbone = load_backbone("squeezenet1_1", pretrained=False)
    model = detector(backbone, 1 + len(ALL), channels=11, hidden=13)
    make, few = (
        ForDetection(backbone.preprocess.normalise, SceneChain((SceneCrop(), flip))),
        streets.train.subset(range(6)),
    )
    train = nest_loader(few, make, batch_size=3, shuffle=True, generator=Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    *_, epoch = fit(model, train, optimizer, epochs=2, task_loss=sum_of_losses, metric=None, terms=None)
    assert epoch.epoch == 2 and 0 < epoch.train["loss"] < 10
    measured = evaluate(model, nest_loader(few, make, batch_size=2), task_loss=None, metric=AveragePrecision)
    assert 0 <= measured["ap50"] <= 1 and measured["n"] == 6


def test_a_segmenter_learns_from_drawn_streets_and_is_measured_on_them(streets):
    torch.manual_seed(0)
    backbone, few = load_backbone("squeezenet1_1", pretrained=False), streets.train.subset(range(6))
    model, make = segmenter(backbone, len(CLASSES), channels=7), ForSegmentation(backbone.preprocess.normalise, flip)
    train = nest_loader(few, make, batch_size=3, shuffle=True, generator=Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    *_, epoch = fit(model, train, optimizer, epochs=2, metric=None)
    assert epoch.epoch == 2 and 0 < epoch.train["loss"] < 4
    measured = evaluate(model, nest_loader(few, make, batch_size=2), metric=lambda: MeanIoU(len(CLASSES)))
    assert 0 <= measured["mean_iou"] <= 1 and measured["n"] == 6


def test_a_segmenter_is_refused_what_has_no_map_and_what_differs_in_size():
    bare = Scene(torch.zeros(3, 5, 7, dtype=torch.uint8))
    mapped = [Scene(torch.zeros(3, h, 7, dtype=torch.uint8), class_map=torch.zeros(h, 7, dtype=torch.uint8))
              for h in (5, 11)]  # fmt: skip
    make = ForSegmentation(lambda p: p.float())
    with pytest.raises(ValueError, match="without class maps"):
        make(([bare.picture], [bare.target]), Generator())
    with pytest.raises(ValueError, match="one size"):
        make(([s.picture for s in mapped], [s.target for s in mapped]), Generator())


def test_a_subset_holds_the_rows_that_were_chosen(streets):
    part = streets.train.subset([13, 2, 2])
    assert len(part) == 3 and torch.equal(part[0][0], streets.train[13][0]) and torch.equal(part[1][0], part[2][0])
    assert part.names == (streets.train.names[13], streets.train.names[2], streets.train.names[2])
    assert torch.equal(part.subset([1])[0][0], streets.train[2][0])
    assert part.fingerprint != streets.train.fingerprint
    with pytest.raises(ValueError, match="rows from 97 to 97"):
        streets.train.subset([97])


def test_what_is_given_can_be_changed_without_harm(streets):
    picture, target = streets.train[1]
    before = picture.clone(), target["boxes"].clone()
    picture.zero_()
    target["boxes"].zero_()
    target["class_map"].zero_()
    again, same = streets.train[1]
    assert torch.equal(again, before[0]) and torch.equal(same["boxes"], before[1]) and same["class_map"].any()


def test_only_so_much_is_kept(monkeypatch):
    made = []

    def make(row):
        made.append(row)
        return Scene(torch.full((3, 5, 7), row, dtype=torch.uint8))

    split = SceneSplit(make, range(3), "abc", "test")
    size = split.scene(0).bytes
    monkeypatch.setattr("sftlib.datasets.scenes.KEEP_BYTES", 2 * size)
    for _ in range(2):
        assert [split[i][0].max().item() for i in range(3)] == [0, 1, 2]
    assert made == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"size": 240}, r"got size=240; expected \(width, height\)"),
        ({"size": (240, 10)}, "expected .* each 32 to 4096"),
        ({"size": (240, 180.0)}, "expected .* in pixels"),
        ({"size": None}, "expected .* in pixels"),
        ({"seed": -1}, "got seed=-1"),
        ({"numbers": (3, 5)}, r"got numbers=\(3, 5\)"),
        ({"numbers": (3, 5, -1)}, "expected how many pictures"),
        ({"objects": ("horse",)}, "expected a tuple of some of pedestrian, car, bicyclist"),
        ({"objects": "car"}, "got objects='car'"),
        ({"objects": ("car", "car")}, "each once"),
    ],
)
def test_bad_arguments_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        street_scenes.load(**settings)


# --------------------------------------------------------------------------------------------- augmentation, drawn

COLOURS = torch.tensor([(250, 10, 10), (10, 250, 10), (10, 10, 250)], dtype=torch.uint8)


def painted():
    """A picture with three blocks of one colour each, and the target that says so"""
    boxes = torch.tensor([(7, 11, 29, 41), (83, 3, 101, 97), (0, 79, 13, 109)])
    picture, objects = torch.full((3, 113, 151), 90, dtype=torch.uint8), torch.zeros(113, 151, dtype=torch.int16)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        picture[:, y1:y2, x1:x2] = COLOURS[i][:, None, None]
        objects[y1:y2, x1:x2] = i + 1
    scene = Scene(picture, boxes.float(), torch.tensor([1, 2, 3]), objects, objects.byte() * 20)
    return picture, scene.target


def seen(picture, label):
    """Where the block of this label is in a picture, by its colour (H, W)"""
    return (picture.int() - COLOURS[label - 1].int()[:, None, None]).abs().amax(0) < 60


def check_places(picture, target, pixels):
    """Boxes, masks and class map lie where the colours are, to so many pixels"""
    for k, (box, label) in enumerate(zip(target["boxes"], target["labels"].tolist(), strict=True)):
        there = seen(picture, label)
        assert (boxes_around(there[None])[0] - box).abs().max() <= pixels
        rim = 2 * pixels * (there.any(0).sum() + there.any(1).sum())
        assert (there != (target["class_map"] == 20 * label)).sum() <= rim
        if "masks" in target:
            assert (there != target["masks"][k]).sum() <= rim


@pytest.mark.parametrize("masks", [True, False])
def test_flip_moves_boxes_and_masks_with_the_picture(masks):
    picture, target = painted()
    if not masks:
        del target["masks"]
    flipped = 0
    for seed in range(20):
        new, moved = flip(picture, target, Generator().manual_seed(seed))
        check_places(new, moved, pixels=0)
        assert len(moved["boxes"]) == 3
        flipped += not torch.equal(new, picture)
    assert 4 < flipped < 16
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    assert all(flip(picture, empty, Generator().manual_seed(s))[1]["boxes"].shape == (0, 4) for s in range(5))


@pytest.mark.parametrize("masks", [True, False])
def test_crop_moves_cuts_and_drops(masks):
    picture, target = painted()
    if not masks:
        del target["masks"]
    dropped, cut = 0, SceneCrop(scale=(0.2, 0.8), least=0.4)
    for seed in range(40):
        new, moved = SceneChain((cut, flip))(picture, target, Generator().manual_seed(seed))
        assert new.shape == picture.shape and new.dtype == torch.uint8
        assert moved["class_map"].shape == picture.shape[1:]
        check_places(new, moved, pixels=3)
        for label in {1, 2, 3} - set(moved["labels"].tolist()):
            dropped += 1
            share = seen(new, label).sum() / seen(picture, label).sum()
            assert share < 0.4 / 0.2 * 1.2  # of its area, enlarged by at most 1 / 0.2
    assert 20 < dropped < 100


def test_crop_by_hand():
    picture, target = painted()
    _, moved = cropped(picture, target, (0, 0, 56, 75), least=0.3)  # of 113 x 151
    assert moved["labels"].tolist() == [1]  # the second lies to the right, the third below
    assert moved["boxes"][0].tolist() == pytest.approx(
        [7 * 151 / 75, 11 * 113 / 56, 29 * 151 / 75, 41 * 113 / 56], abs=1
    )
    _, moved = cropped(picture, target, (30, 0, 83, 151), least=0.3)  # a third of the first is left
    assert moved["labels"].tolist() == [1, 2, 3] and moved["boxes"][0, 1] == 0
    _, moved = cropped(picture, target, (30, 0, 83, 151), least=0.5)
    assert moved["labels"].tolist() == [2, 3]


def test_resizing_moves_boxes_and_masks_with_the_picture():
    picture, target = painted()
    objects = (target["masks"] * torch.tensor([1, 2, 3]).view(3, 1, 1)).sum(0).short()
    scene = resized(Scene(picture, target["boxes"], target["labels"], objects, target["class_map"]), (302, 339))
    assert scene.picture.shape == (3, 339, 302)
    check_places(scene.picture, scene.target, pixels=2)
    assert torch.equal(boxes_of(scene.objects.numpy(), 3), scene.boxes)


@pytest.mark.parametrize("settings", [{"scale": (0.8, 0.2)}, {"scale": 0.5}, {"least": 0}, {"scale": (0, 1)}])
def test_impossible_crops_are_refused(settings):
    with pytest.raises(ValueError, match="two shares of the area"):
        SceneCrop(**settings)


def test_a_mask_without_a_pixel_has_no_box():
    with pytest.raises(ValueError, match="mask without a pixel"):
        boxes_around(torch.zeros(1, 5, 7, dtype=torch.bool))


def places():
    """A picture (3, 113, 151) whose pixels say their row and column, and a target without masks"""
    rows, columns = torch.meshgrid(torch.arange(113), torch.arange(151), indexing="ij")
    picture = torch.stack([rows, columns, torch.zeros_like(rows)]).byte()
    return picture, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}


def test_crops_have_every_size_that_was_asked_for_and_lie_anywhere():
    picture, target = places()
    shares, tops, lefts = [], [], []
    for seed in range(200):
        new, _ = SceneCrop(scale=(0.2, 0.6))(picture, target, Generator().manual_seed(seed))
        top, left = new[0].min().item(), new[1].min().item()
        h, w = new[0].max().item() - top + 1, new[1].max().item() - left + 1
        assert abs(h / w - 113 / 151) < 0.04
        shares.append(h * w / (113 * 151))
        tops.append(top / (113 - h))
        lefts.append(left / (151 - w))
    assert 0.19 < min(shares) < 0.23 and 0.57 < max(shares) < 0.61
    assert np.mean(shares) == pytest.approx(0.4, abs=0.03)  # uniform in the area
    for place in (tops, lefts):
        assert min(place) < 0.05 and max(place) > 0.95
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.2


def test_a_crop_of_other_proportions_stretches_boxes_by_its_own_sides():
    picture, target = places()
    target |= {"boxes": torch.tensor([[10.0, 20.0, 30.0, 60.0]]), "labels": torch.tensor([1])}
    _, moved = cropped(picture, target, (10, 5, 100, 40))
    assert moved["boxes"][0].tolist() == pytest.approx([5 * 151 / 40, 10 * 1.13, 25 * 151 / 40, 50 * 1.13])


def test_without_masks_the_box_decides_what_is_dropped_and_an_empty_box_always_is():
    picture, target = places()
    boxes = torch.tensor([[0.0, 0, 40, 20], [30, 0, 30, 20], [100, 100, 140, 110]])
    target |= {"boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    for least, kept in ((0.24, [1]), (0.26, [])):  # a quarter of the first is left, nothing of the third
        _, moved = cropped(picture, target, (0, 30, 50, 60), least)
        assert moved["labels"].tolist() == kept and len(moved["boxes"]) == len(kept)


def test_the_box_of_what_is_left_of_a_mask_is_tight():
    picture, _ = places()
    objects = torch.zeros(113, 151, dtype=torch.int16)
    objects[10:100, 60:70] = 1  # an L, whose foot the crop cuts off
    objects[90:100, 10:70] = 1
    boxes = torch.tensor([[10.0, 10, 70, 100]])
    target = Scene(picture, boxes, torch.tensor([1]), objects, objects.byte()).target
    _, moved = cropped(picture, target, (0, 0, 80, 107), 0.1)
    expected = masks_to_boxes(moved["masks"])[0] + torch.tensor([0, 0, 1, 1])
    assert torch.equal(moved["boxes"][0], expected) and moved["boxes"][0, 0] > 80


def test_a_chain_takes_its_steps_in_order():
    def named(name):
        return lambda picture, target, generator: (picture, target | {"steps": [*target.get("steps", []), name]})

    _, target = SceneChain((named("a"), named("b"), named("c")))(*places(), Generator())
    assert target["steps"] == ["a", "b", "c"]
