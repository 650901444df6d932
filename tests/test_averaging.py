"""Interpolated and averaged weights; BatchNorm's statistics recomputed, torch's update_bn as the oracle."""

import copy

import pytest
import torch
from helpers import TinyBackbone, batches, plain_model, tiny_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from sftlib.adaptation import average, freeze, interpolate, recompute_batchnorm
from sftlib.backbones import load_backbone


def states(n):
    """n models, each with other weights and statistics -> their state dicts"""
    models = [tiny_model(seed=seed) for seed in range(n)]
    for seed, model in enumerate(models):
        model.train()(batches(1, seed=seed)[0][0])
    return [model.state_dict() for model in models]


def test_ends_are_the_models_themselves_to_the_bit():
    theta0, theta1 = states(2)
    for a, theta in ((0.0, theta0), (1.0, theta1)):
        result = interpolate(theta0, theta1, a)
        assert result.keys() == theta.keys()
        assert all(torch.equal(result[k], theta[k]) and result[k].dtype == theta[k].dtype for k in theta)


def test_between_each_entry_is_on_the_line():
    theta0, theta1 = states(2)
    result = interpolate(theta0, theta1, 0.3)
    for k, t in theta0.items():
        if t.is_floating_point():
            torch.testing.assert_close(result[k], torch.lerp(t, theta1[k], 0.3))


def test_a_linear_model_of_interpolated_weights_interpolates_the_outputs():
    first, second, between = (plain_model(seed=s).head for s in range(3))
    between.load_state_dict(interpolate(first.state_dict(), second.state_dict(), 0.7))
    z = torch.randn(5, 7)
    torch.testing.assert_close(between(z), 0.3 * first(z) + 0.7 * second(z))


def test_average_is_torchs_swa_average():
    models = [tiny_model(seed=s) for s in range(3)]
    swa = AveragedModel(models[0])
    for model in models:
        swa.update_parameters(model)
    mean = average([m.state_dict() for m in models])
    for k, v in swa.module.named_parameters():
        torch.testing.assert_close(mean[k], v.data)


def test_average_of_one_or_of_equals_is_it_and_order_does_not_matter():
    a, b, c = states(3)
    assert all(torch.equal(average([a, a, a])[k], a[k]) and torch.equal(average([a])[k], a[k]) for k in a)
    forth, back = average([a, b, c]), average([c, b, a])
    assert all(torch.allclose(forth[k], back[k]) for k in a)
    half = interpolate(a, b, 0.5)
    assert all(torch.equal(average([a, b])[k], half[k]) for k in a)


def test_results_share_no_memory_with_the_models():
    model = tiny_model()
    for result in (average([model.state_dict()]), interpolate(model.state_dict(), model.state_dict(), 0.0)):
        assert not {t.data_ptr() for t in result.values()} & {t.data_ptr() for t in model.state_dict().values()}


def test_states_of_other_architectures_are_refused_by_name():
    theta = tiny_model().state_dict()
    with pytest.raises(ValueError, match="differ in 'head.bias'"):
        average([theta, {k: v for k, v in theta.items() if k != "head.bias"}])
    with pytest.raises(ValueError, match="differ in 'head.bias'"):
        interpolate(theta, {**theta, "head.bias": torch.zeros(5)}, 0.5)
    with pytest.raises(ValueError, match="no state dicts"):
        average([])


# --- BatchNorm ---------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_torchs_update_bn():
    loader = [(x[:5], y[:5]) for x, y in [(torch.randn(5, 3, 37, 37), torch.zeros(5)) for _ in range(3)]]
    ours = load_backbone("efficientnet_lite0", size=37)
    theirs = copy.deepcopy(ours)
    before = copy.deepcopy(ours.state_dict())
    update_bn(loader, theirs)
    assert recompute_batchnorm(ours, loader) is ours
    for k, v in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[k], v, rtol=1e-5, atol=1e-6)
        assert torch.equal(v, before[k]) != ("running" in k or "tracked" in k)


def test_statistics_are_the_means_over_batches_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3))
    model(100 + torch.randn(5, 3, 2, 2))  # to be forgotten
    loader = batches(3)
    nn.init.normal_(model[0].weight)
    recompute_batchnorm(model, loader)
    flat = [x.transpose(0, 1).flatten(1) for x, _ in loader]
    torch.testing.assert_close(model[0].running_mean, sum(f.mean(1) for f in flat) / 3)
    torch.testing.assert_close(model[0].running_var, sum(f.var(1) for f in flat) / 3)
    assert model[0].num_batches_tracked == 3


def test_modes_momenta_and_frozen_parts_are_as_before():
    model = tiny_model()
    freeze(model.backbone)
    model.backbone.norm.momentum = 0.03
    head = model.head.train()
    recompute_batchnorm(model, batches(2))
    assert not model.backbone.norm.training and head.training and model.backbone.norm.momentum == 0.03
    assert model.backbone.norm.num_batches_tracked == 2
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_dropout_is_off_meanwhile():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    loader = batches(1)
    recompute_batchnorm(model, loader)
    torch.testing.assert_close(model[1].running_mean, loader[0][0].mean((0, 2, 3)))
    assert model[0].training


def test_averaging_spoils_the_statistics_and_recomputing_restores_them():
    torch.manual_seed(0)
    x = torch.randn(13, 3, 11, 13)
    models = [TinyBackbone(), TinyBackbone()]
    for model in models:
        recompute_batchnorm(model, [(x, None)])
    middle = TinyBackbone()
    middle.load_state_dict(average([m.state_dict() for m in models]))

    def spread():
        with torch.no_grad():
            return middle.eval().norm(middle.conv(x)).std((0, 2, 3)).mean()  # 1 if the statistics fit

    spoilt = spread()
    recompute_batchnorm(middle, [(x, None)])
    assert spoilt < 0.9 and abs(spread() - 1) < 0.01


def test_an_error_or_an_empty_loader_leaves_modes_and_statistics():
    model = tiny_model().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="without a single batch"):
        recompute_batchnorm(model, [])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError):
        recompute_batchnorm(model, [(torch.zeros(2, 5, 7, 7), None)])
    assert not any(m.training for m in model.modules()) and model.backbone.norm.momentum == 0.1
    with pytest.raises(ValueError, match="no BatchNorm"):
        recompute_batchnorm(plain_model(), batches(1))
