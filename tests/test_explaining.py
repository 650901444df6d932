"""Grad-CAM against the map that can be written down, a planted place, and a network that knows nothing."""

import pytest
import torch
from torch import nn

from sftlib.backbones import load_backbone
from sftlib.explaining import agreement, grad_cam, last_maps, share_inside
from sftlib.model import LinearHead, Model


def model(pretrained=True, seed=0, size=64):
    torch.manual_seed(seed)
    f = load_backbone("squeezenet1_1", pretrained=pretrained, size=size)
    return Model(f, LinearHead(f.feature_dim, 3))


def noise(n=5, size=64, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 50


def test_with_a_mean_and_a_linear_head_the_map_is_the_class_activation_map():
    m, x = model(), noise()
    k = torch.tensor([0, 2, 1, 1, 0])
    with torch.no_grad():
        h = m.backbone.lower(x, "stage4")
        by_hand = torch.einsum("nc,nchw->nhw", m.head.weight[k], h).relu()  # Zhou et al. 2016
    maps = grad_cam(m, x, k)
    small = nn.functional.interpolate(by_hand[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    assert last_maps(m, x) == "stage4" and maps.shape == (5, 64, 64)
    largest = small.amax((1, 2), keepdim=True)
    assert (largest > 0).sum() >= 3 and torch.allclose(maps, small / largest.clamp_min(1e-9), atol=1e-5)


def test_the_predicted_class_is_taken_and_one_number_means_it_for_all():
    m, x = model(), noise()
    with torch.no_grad():
        k = m.eval()(x).argmax(1)
    assert torch.equal(grad_cam(m, x), grad_cam(m, x, k))
    assert torch.equal(grad_cam(m, x, 1), grad_cam(m, x, torch.ones(5, dtype=torch.long)))


def test_a_map_of_a_picture_does_not_depend_on_the_others_and_nothing_is_left_behind():
    m, x = model(), noise()
    m.train()
    together = grad_cam(m, x, 2)
    assert torch.allclose(together[3:4], grad_cam(m, x[3:4], 2), atol=1e-5)
    assert m.training and all(p.grad is None for p in m.parameters())
    with torch.inference_mode():
        assert torch.allclose(grad_cam(m, x.clone(), 2), together, atol=1e-6)


class Corner(nn.Module):
    """Maps that are bright where the picture is, one channel a colour"""

    stages = ("maps", "pool")

    def __init__(self):
        super().__init__()
        self.maps, self.pool = nn.AvgPool2d(8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))

    def lower(self, x, stage):
        return self.maps(x)

    def upper(self, h, stage):
        return self.pool(h)

    def forward(self, x):
        return self.pool(self.maps(x))


def test_what_speaks_for_the_class_lights_up_and_what_speaks_against_it_does_not():
    m = Model(Corner(), LinearHead(3, 2))
    with torch.no_grad():
        m.head.weight.copy_(torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]))
        m.head.bias.zero_()
    x = torch.zeros(1, 3, 64, 64)
    x[:, 0, :16, :16] = 1.0  # red, top left: for class 0
    x[:, 1, 48:, 48:] = 2.0  # green, bottom right: for class 1
    top, bottom = torch.zeros(64, 64, dtype=torch.bool), torch.zeros(64, 64, dtype=torch.bool)
    top[:20, :20], bottom[44:, 44:] = True, True
    for k, mask in ((0, top), (1, bottom)):
        maps = grad_cam(m, x, k)
        assert maps.max() == 1 and share_inside(maps, mask) == 1.0
    assert grad_cam(m, -x.abs() * torch.tensor([1.0, 0, 0])[:, None, None], 0).max() == 0  # nothing speaks for it


def test_another_network_looks_elsewhere_and_the_same_one_does_not():
    x = noise()
    maps = grad_cam(model(seed=1), x, 1)
    same = agreement(maps, grad_cam(model(seed=1), x, 1))
    other = agreement(maps, grad_cam(model(pretrained=False, seed=2), x, 1))
    assert (
        same[same.isfinite()].tolist() == pytest.approx([1.0] * int(same.isfinite().sum()), abs=1e-5)
        and other.nanmean() < 0.9
    )


def test_agreement_is_the_correlation():
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 7, 11, generator=g), torch.rand(3, 7, 11, generator=g)
    want = [torch.corrcoef(torch.stack([p.flatten(), q.flatten()]))[0, 1].item() for p, q in zip(a, b, strict=True)]
    assert agreement(a, b).tolist() == pytest.approx(want, abs=1e-6)
    assert agreement(a, 3 * a + 2).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_stages_without_maps_and_wrong_classes_are_refused():
    m, x = model(), noise(2)
    with pytest.raises(ValueError, match="expected maps"):
        grad_cam(m, x, stage="pool")
    with pytest.raises(ValueError, match="k in"):
        grad_cam(m, x, 3)
    with pytest.raises(ValueError, match="expected booleans"):
        share_inside(torch.ones(2, 5, 5), torch.ones(4, 4, dtype=torch.bool))
