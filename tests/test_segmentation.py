"""A segmenter's maps, rates and losses, and the IoU of edges: against loops, SciPy, torch itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Generator, nn

from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone
from sftlib.metrics import BoundaryIoU, MeanIoU, edge_band
from sftlib.model import eval_mode
from sftlib.model.segmentation import AuxiliaryLoss, MapsBackbone, fitting_rates, segmenter

K, H, W, IGNORED = 5, 61, 83, 255


def g(seed=0):
    return Generator().manual_seed(seed)


def net(seed=0):
    torch.manual_seed(seed)
    return load_backbone("squeezenet1_1", pretrained=False)


# ------------------------------------------------------------------------------------------------------- boundary IoU


def labels(seed, n=7, holes=True):
    """Class maps (n, 29, 37) of blobs, some pixels of which count for nothing"""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(n, K, 29, 37)), (0, 0, 3, 3))
    y = torch.from_numpy(noise.argmax(1))
    return y.masked_fill(torch.rand(y.shape, generator=g(seed)) < 0.02, IGNORED) if holes else y


def scores(y, seed=9):
    """Outputs (n, K, H, W) whose largest stands at y; anywhere where y counts for nothing"""
    noise = torch.rand(len(y), K, *y.shape[1:], generator=g(seed))
    return noise + 2 * F.one_hot(y.where(y != IGNORED, 0), K).movedim(-1, 1)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_a_band_is_what_erosion_takes_away(width):
    masks = labels(1, holes=False) == 2
    square = np.ones((3, 3))
    eroded = [ndimage.binary_erosion(m, square, iterations=width, border_value=0) for m in masks.numpy()]
    assert torch.equal(edge_band(masks, width), masks & ~torch.from_numpy(np.stack(eroded)))


def test_a_band_by_the_distance_to_the_nearest_pixel_outside():
    mask = F.pad(labels(2, n=1, holes=False)[0] == 1, (0, 0))
    outside = np.argwhere(~np.pad(mask.numpy(), 1))  # one row of what lies beyond the picture is enough
    for y, x in np.argwhere(mask.numpy()):
        nearest = np.abs(outside - (y + 1, x + 1)).max(axis=1).min()
        assert edge_band(mask, 3)[y, x] == (nearest <= 3)


def test_boundary_iou_by_hand():
    y, p = (torch.zeros(1, 41, 41, dtype=torch.long) for _ in range(2))
    y[0, 10:21, 10:21] = 1
    p[0, 10:21, 11:22] = 1  # the same square, a pixel to the right
    measure = BoundaryIoU(2, 1)
    measure.add(F.one_hot(p, 2).movedim(-1, 1).float(), y)
    # bands of 40 pixels: 2 rows of 10 in common, and no column
    assert measure.values()["boundary_iou"][1] == pytest.approx(20 / 60)
    whole = MeanIoU(2)
    whole.add(F.one_hot(p, 2).movedim(-1, 1).float(), y)
    assert whole.values()["iou"][1] == pytest.approx(110 / 132)


def test_boundary_iou_is_counted_over_the_data_set_class_by_class():
    y, p = labels(3), labels(4, holes=False)
    measure = BoundaryIoU(K, 2)
    for rows in torch.arange(7).split(3):
        measure.add(scores(p)[rows], y[rows])
    both, either = torch.zeros(K), torch.zeros(K)
    for true, said in zip(y, p, strict=True):
        for k in range(K):
            bands = [m & ~ndimage.binary_erosion(m, np.ones((3, 3)), iterations=2)
                     for m in ((true == k).numpy(), ((said == k) & (true != IGNORED)).numpy())]  # fmt: skip
            both[k] += (bands[0] & bands[1]).sum()
            either[k] += (bands[0] | bands[1]).sum()
    expected = both / either
    assert measure.values()["boundary_iou"] == pytest.approx(expected.tolist())
    assert measure.values()["mean_boundary_iou"] == pytest.approx(expected.mean().item())


def test_boundary_iou_of_the_truth_is_1_and_a_wide_band_gives_the_plain_iou():
    y, p = labels(5), labels(6, holes=False)
    exact, wide, plain = BoundaryIoU(K, 2), BoundaryIoU(K, 50), MeanIoU(K)
    exact.add(scores(y), y)
    wide.add(scores(p), y)
    plain.add(scores(p), y)
    assert exact.values()["boundary_iou"] == [1.0] * K
    assert wide.values()["boundary_iou"] == pytest.approx(plain.values()["iou"])


def test_what_counts_for_nothing_changes_nothing_and_an_absent_class_is_left_out():
    y, p = labels(7), labels(8, holes=False)
    other = p.where(y != IGNORED, 3)
    found = []
    for said in (p, other):
        measure = BoundaryIoU(K + 1, 2)
        measure.add(F.pad(scores(said), (0, 0, 0, 0, 0, 1), value=-9.0), y)
        found.append(measure.values())
    assert str(found[0]) == str(found[1]) and np.isnan(found[0]["boundary_iou"][K])
    assert found[0]["mean_boundary_iou"] == pytest.approx(np.nanmean(found[0]["boundary_iou"]))


def test_parts_of_a_boundary_iou_are_merged_and_carried():
    y, p = labels(3), labels(4)
    whole, first, second = (BoundaryIoU(K, 2) for _ in range(3))
    whole.add(scores(p), y)
    first.add(scores(p)[:3], y[:3])
    second.add(scores(p)[3:], y[3:])
    again = BoundaryIoU(K, 2)
    again.load(second.state())
    first.merge(again)
    assert first.values() == whole.values()


@pytest.mark.parametrize(
    "case, words",
    [
        (lambda: edge_band(torch.zeros(5, 7), 1), "got masks torch.float32"),
        (lambda: edge_band(torch.zeros(5, 7, dtype=torch.bool), 0), "width"),
        (lambda: BoundaryIoU(K, 2).add(torch.zeros(2, K + 1, 5, 7), torch.zeros(2, 5, 7, dtype=torch.long)), "of 6 cl"),
        (lambda: BoundaryIoU(K, 2).add(torch.zeros(2, K, 5, 7), torch.zeros(2, 5, 6, dtype=torch.long)), "of shape"),
        (lambda: BoundaryIoU(K, 2).values(), "got no pixels"),
        (lambda: _measured(torch.full((1, 5, 7), K)), "35 pixels of no class"),
        (lambda: _measured(torch.full((1, 5, 7), IGNORED)), "got no pixels"),
    ],
)
def test_bad_input_of_the_boundary_is_named(case, words):
    with pytest.raises(ValueError, match=words):
        case()


def _measured(y):
    measure = BoundaryIoU(K, 2)
    measure.add(torch.zeros(1, K, 5, 7), y)
    return measure.values()


# ---------------------------------------------------------------------------------------------------------- the maps


def test_f_gives_the_maps_of_its_stages_and_the_size():
    body = net()
    x = torch.randn(2, 3, H, W, generator=g())
    h, auxiliary, early, size = MapsBackbone(body)(x)
    assert size == (H, W)
    for found, stage in ((h, "stage4"), (auxiliary, "stage3"), (early, "stage1")):
        torch.testing.assert_close(found, body.lower(x, stage))
    coarse = MapsBackbone(body, stage="stage3", auxiliary="stage2", early=None)
    assert len(coarse(x)) == 3 and coarse.early_dim is None
    torch.testing.assert_close(coarse(x)[0], body.lower(x, "stage3"))
    assert (coarse.feature_dim, coarse.auxiliary_dim) == (384, 256)


def test_stages_above_the_map_are_not_run(monkeypatch):
    f = MapsBackbone(net(), stage="stage2", auxiliary="stage1")
    monkeypatch.setattr(f.body.stage3, "forward", lambda x: pytest.fail("stage3 was run"))
    f(torch.zeros(1, 3, H, W))


def test_building_moves_no_statistic_and_no_mode():
    body = load_backbone("efficientnet_lite0", pretrained=False).train()
    before = {name: t.clone() for name, t in body.state_dict().items()}
    MapsBackbone(body)
    assert all(torch.equal(t, before[name]) for name, t in body.state_dict().items()) and body.stem.training


@pytest.mark.parametrize(
    "stages", [{"early": "stage9"}, {"stage": "layer4"}, {"stage": "stage2"}, {"auxiliary": "pool"}]
)
def test_stages_that_are_not_there_or_above_are_named(stages):
    with pytest.raises(ValueError, match="none above stage"):
        MapsBackbone(net(), **stages)


@pytest.mark.parametrize("early", [None, "stem", "stage1", "stage2"])
def test_every_parameter_of_f_and_g_gets_a_gradient(early):
    model = segmenter(net(), K, channels=7, early=early).train()
    x, y = torch.randn(2, 3, H, W, generator=g()), torch.randint(K, (2, H, W), generator=g(1))
    output = model(x)
    assert output.shape == (2, K, H, W)
    F.cross_entropy(output, y).backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert lacking == []


def test_the_early_map_is_what_g_sees_of_detail():
    """Without it the answer is smooth between the cells of the last map; the early map alone changes it within one"""
    fine, coarse = (segmenter(net(), K, channels=7, early=early).eval() for early in ("stage1", None))
    h, auxiliary, early, size = fine.backbone(torch.randn(1, 3, H, W, generator=g()))
    changed = early + torch.randn(early.shape, generator=g(1))
    assert (fine.head((h, auxiliary, changed, size)) - fine.head((h, auxiliary, early, size))).abs().max() > 1e-4
    assert coarse.head.reduce is None


def test_a_permuted_batch_gives_the_permuted_answer():
    model, x = segmenter(net(), K, channels=7).eval(), torch.randn(3, 3, H, W, generator=g())
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(x)[order], model(x[order]), rtol=1e-4, atol=1e-5)


def test_the_dilated_kernels_have_the_rates_that_were_asked_for():
    head = segmenter(net(), K, channels=7, rates=(3, 5, 11)).head
    dilated = [m for m in head.context.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.dilation for m in dilated] == [(3, 3), (5, 5), (11, 11)]


def test_a_rate_as_large_as_the_map_sees_its_centre_alone():
    torch.manual_seed(0)
    h = torch.randn(1, 2, 7, 9, generator=g())
    for rate, same in ((9, True), (6, False)):
        wide = nn.Conv2d(2, 3, 3, padding=rate, dilation=rate, bias=False)
        centre = F.conv2d(h, wide.weight[:, :, 1:2, 1:2])
        assert torch.allclose(wide(h), centre, atol=1e-6) == same


@pytest.mark.parametrize("size", [(7, 9), (11, 14), (22, 29), (3, 50), (1, 1)])
def test_fitting_rates_keep_the_outer_taps_within_the_map_at_half_the_places(size):
    rates = fitting_rates(*size)
    assert list(rates) == sorted(set(rates)) and rates[0] >= 1
    side = min(size)
    if side >= 6:
        inside = [sum(0 <= i + r < side for i in range(side)) / side for r in rates]
        assert inside[-1] >= 0.4 and inside[0] >= 0.8
    assert fitting_rates(*size) == fitting_rates(*size[::-1])
    assert fitting_rates(11, 14) == (2, 4, 6)


# ---------------------------------------------------------------------------------------------------- auxiliary loss


def test_the_auxiliary_loss_is_the_mean_over_pictures_of_the_mean_over_counted_pixels():
    f, loss = MapsBackbone(net()), AuxiliaryLoss(384, K).eval()
    x, y = torch.randn(3, 3, H, W, generator=g()), torch.randint(K, (3, H, W), generator=g(1))
    y[0, :40], y[1, :, 7:] = IGNORED, IGNORED
    z = f(x)
    logits = F.interpolate(loss.head(z[1]), (H, W), mode="bilinear", align_corners=False)
    alone = [F.cross_entropy(logits[i : i + 1], y[i : i + 1], ignore_index=IGNORED) for i in range(3)]
    assert loss(z, y).item() == pytest.approx(sum(alone).item() / 3, rel=1e-5)


def test_the_auxiliary_loss_reaches_the_stages_up_to_its_own_and_its_head():
    model, loss = segmenter(net(), K, channels=7), AuxiliaryLoss(384, K)
    x, y = torch.randn(2, 3, H, W, generator=g()), torch.randint(K, (2, H, W), generator=g(1))
    loss(model.backbone(x), y).backward()
    reached = {name.split(".")[0] for name, p in model.backbone.body.named_parameters() if p.grad is not None}
    assert reached == {"stem", "stage1", "stage2", "stage3"}
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert all(p.grad is None for p in model.head.parameters())


def test_the_auxiliary_head_is_forgotten_by_an_optimizer_of_f_and_g_alone():
    model, loss = segmenter(net(), K, channels=7), AuxiliaryLoss(384, K)
    held = {id(p) for group in param_groups(f=(model.backbone, 1e-3), g=(model.head, 1e-3)) for p in group["params"]}
    assert not held & {id(p) for p in loss.parameters()}


def test_a_picture_of_nothing_but_ignored_pixels_adds_no_loss_and_no_gradient():
    f, loss = MapsBackbone(net()), AuxiliaryLoss(384, K).eval()
    z, y = f(torch.randn(2, 3, H, W, generator=g())), torch.full((2, H, W), IGNORED)
    value = loss(z, y)
    value.backward()
    assert value.item() == 0 and all(p.grad.abs().sum() == 0 for p in loss.parameters())


def test_one_picture_in_train_mode_is_refused_by_batch_normalisation_and_taken_in_eval_mode():
    model, x = segmenter(net(), K, channels=7).train(), torch.zeros(1, 3, H, W)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model(x)
    with eval_mode(model):
        assert model(x).shape == (1, K, H, W)
