"""Balancers of two losses against naive NumPy versions, closed forms and the plain sum."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from sftlib import losses


class Cut(nn.Module):
    """f and g, each one matrix: z = x A, logits = z B."""

    def __init__(self, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.backbone = nn.Linear(3, 7, bias=False, dtype=torch.float64)
        self.head = nn.Linear(7, 5, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for w in self.parameters():
                w.copy_(torch.randn(w.shape, generator=g, dtype=w.dtype))


SHARED = "backbone.weight"


def two_losses(model, seed=0, prototypes=None):
    """-> L_g on logits, L_f on z"""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(11, 3, generator=g, dtype=torch.float64), torch.randint(5, (11,), generator=g)
    mu = losses.simplex_prototypes(5, 7).double() if prototypes is None else prototypes
    z = model.backbone(x)
    return nn.functional.cross_entropy(model.head(z), y), losses.cosine_prototype(z, y, mu)


def gradients(model, loss):
    """-> one vector for the backbone, one for the head"""
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return [g.flatten() for g in found]


def conflicting():
    """-> model and losses whose gradients at the backbone point against each other"""
    for seed in range(100):
        model = Cut(seed)
        pair = two_losses(model, seed)
        g, h = (gradients(model, loss)[0] for loss in pair)
        if g @ h < -0.1 * g.norm() * h.norm():
            return model, pair
    raise AssertionError("no conflict among 100 seeds")


def balancers():
    return {
        "fixed": losses.fixed_weight(0.3),
        "ratio": losses.gradient_norm_ratio(SHARED),
        "uncertainty": losses.UncertaintyWeights().double(),
        "gradnorm": losses.GradNorm(SHARED).double(),
        "pcgrad": losses.pcgrad,
        "random": losses.RandomWeights(torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize("name", balancers())
def test_every_balancer_takes_any_pair_and_gives_a_scalar_that_trains_the_whole_model(name):
    for as_pair in (tuple, list, lambda pair: pair):
        model = Cut()
        loss = balancers()[name](as_pair(two_losses(model)), model)
        assert loss.shape == ()
        loss.backward()
        assert all(p.grad.norm() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", balancers())
def test_every_balancer_lowers_both_losses_of_a_small_problem(name):
    model, combine = Cut(3), balancers()[name]
    own = list(combine.parameters()) if isinstance(combine, nn.Module) else []
    optimizer = torch.optim.SGD([{"params": model.parameters()}, {"params": own}], lr=0.1)
    start = two_losses(model)
    for _ in range(150):
        optimizer.zero_grad()
        combine(two_losses(model), model).backward()
        optimizer.step()
    end = two_losses(model)
    assert all(after < before for after, before in zip(end, start, strict=True))


@pytest.mark.parametrize("name", balancers())
def test_every_balancer_names_a_missing_or_unreduced_loss(name):
    model = Cut()
    task_loss, feature_loss = two_losses(model)
    for pair in [(task_loss, 0.0), (task_loss,), (task_loss, feature_loss.expand(11))]:
        with pytest.raises(ValueError, match="two scalar tensors"):
            balancers()[name](pair, model)


def test_fixed_weight_is_the_plain_weighted_sum():
    model = Cut()
    pair = two_losses(model)
    loss = losses.fixed_weight(0.3)(pair, model)
    assert loss.item() == pytest.approx(pair[0].item() + 0.3 * pair[1].item())


# --- gradient-norm ratio -----------------------------------------------------------------------------------


def test_gradient_norm_ratio_makes_both_losses_pull_equally_at_the_shared_layer():
    model = Cut()
    pair = two_losses(model)
    g, h = (gradients(model, loss)[0] for loss in pair)
    ratio = (g.norm() / (h.norm() + 1e-4)).item()
    loss = losses.gradient_norm_ratio(SHARED)(pair, model)
    assert loss.item() == pytest.approx(pair[0].item() + ratio * pair[1].item(), rel=1e-12)
    both = gradients(model, loss)  # the ratio is a number: no gradient runs through it
    torch.testing.assert_close(both[0], g + ratio * h)
    torch.testing.assert_close(both[1], gradients(model, pair[0])[1])
    assert (ratio * h).norm().item() == pytest.approx(g.norm().item(), rel=1e-3)


def test_gradient_norm_ratio_does_not_depend_on_the_scale_of_the_feature_loss_and_is_clamped():
    model = Cut()
    task_loss, feature_loss = two_losses(model)
    combine = losses.gradient_norm_ratio(SHARED, eps=1e-12)
    small, large = (combine((task_loss, c * feature_loss), model) for c in (1e-2, 1e2))
    assert small.item() == pytest.approx(large.item())
    capped = losses.gradient_norm_ratio(SHARED, max_weight=0.25)((task_loss, 1e-6 * feature_loss), model)
    assert capped.item() == pytest.approx(task_loss.item() + 0.25e-6 * feature_loss.item(), rel=1e-12)


@pytest.mark.parametrize("make", [losses.gradient_norm_ratio, losses.GradNorm])
def test_shared_layer_has_to_be_reached_by_both_losses(make):
    model = Cut()
    with pytest.raises(ValueError, match="shared='backbone.bias'.*'backbone.weight'"):
        make("backbone.bias")(two_losses(model), model)
    with pytest.raises(ValueError, match="only one of the losses reaches"):
        make("head.weight")(two_losses(model), model)
    model.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="trainable"):
        make(SHARED)(two_losses(model), model)


# --- uncertainty -------------------------------------------------------------------------------------------


def test_uncertainty_has_its_optimum_at_the_log_of_each_loss():
    combine = losses.UncertaintyWeights().double()
    pair = tuple(torch.tensor(v, dtype=torch.float64) for v in (0.25, 3.0))
    optimizer = torch.optim.SGD(combine.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        combine(pair, None).backward()
        optimizer.step()
    torch.testing.assert_close(combine.log_variances.exp().detach(), torch.stack(pair))
    assert combine(pair).item() == pytest.approx(0.5 * (math.log(0.25) + 1 + math.log(3.0) + 1))


def test_uncertainty_weighs_each_loss_by_half_of_one_over_it_at_the_optimum():
    combine = losses.UncertaintyWeights().double()
    pair = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.25, 3.0)]
    with torch.no_grad():
        combine.log_variances.copy_(torch.stack(pair).log())
    combine(pair).backward()
    assert [x.grad.item() for x in pair] == pytest.approx([1 / 0.5, 1 / 6])
    assert torch.autograd.gradcheck(lambda a, b: combine((a, b)), pair)


# --- GradNorm ----------------------------------------------------------------------------------------------


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_gradnorm_target_is_the_mean_pull_times_the_relative_progress_to_the_alpha():
    combine = losses.GradNorm(SHARED, alpha=1.5).double()
    combine.first_losses.copy_(numbers(2.0, 4.0))
    targets = combine.targets(numbers(3.0, 7.0), numbers(1.0, 3.0))  # halved; down to three quarters
    r = np.array([0.5, 0.75]) / 0.625
    np.testing.assert_allclose(targets.numpy(), 5.0 * r**1.5, rtol=1e-12)


def test_gradnorm_value_and_gradients_are_those_of_the_weighted_sum_and_of_the_papers_loss():
    model, combine = Cut(1), losses.GradNorm(SHARED, alpha=0.7).double()
    pair = two_losses(model, 1)
    combine.first_losses.copy_(torch.stack(pair).detach() * numbers(1.0, 2.0))
    with torch.no_grad():
        combine.weights.copy_(numbers(0.5, 1.5))
    loss = combine(pair, model)
    assert loss.item() == pytest.approx(0.5 * pair[0].item() + 1.5 * pair[1].item(), rel=1e-12)
    plain = gradients(model, 0.5 * pair[0] + 1.5 * pair[1])
    for ours, expected in zip(gradients(model, loss), plain, strict=True):
        torch.testing.assert_close(ours, expected)

    norms = np.array([gradients(model, x)[0].norm().item() for x in pair])
    pulls, r = norms * [0.5, 1.5], np.array([1.0, 0.5]) / 0.75
    target = pulls.mean() * r**0.7  # a constant in the paper's gradient
    distance = lambda w: np.abs(norms * w - target).sum()  # noqa: E731
    step = 1e-6 * np.eye(2)
    numeric = [(distance([0.5, 1.5] + s) - distance([0.5, 1.5] - s)) / 2e-6 for s in step]
    loss.backward()
    np.testing.assert_allclose(combine.weights.grad.numpy(), numeric, rtol=1e-6)


def test_gradnorm_weights_stay_positive_and_sum_to_2():
    model, combine = Cut(2), losses.GradNorm(SHARED).double()
    optimizer = torch.optim.SGD(combine.parameters(), lr=5.0)  # far too large on purpose
    for seed in range(7):
        optimizer.zero_grad()
        combine(two_losses(model, seed), model).backward()
        assert combine.weights.sum().item() == pytest.approx(2) and (combine.weights > 0).all()
        optimizer.step()


def test_gradnorm_brings_the_pulls_to_their_targets():
    model, combine = Cut(2), losses.GradNorm(SHARED, alpha=0.0).double()
    task_loss, feature_loss = two_losses(model)
    pair = (task_loss, 5 * feature_loss)
    optimizer = torch.optim.SGD(combine.parameters(), lr=0.003)
    for _ in range(500):
        optimizer.zero_grad()
        combine(pair, model).backward(retain_graph=True)
        optimizer.step()
    combine(pair, model)
    g, h = (w * gradients(model, x)[0].norm() for w, x in zip(combine.weights.detach(), pair, strict=True))
    assert g.item() == pytest.approx(h.item(), rel=0.1)  # alpha 0: equal pulls


def test_gradnorm_remembers_the_first_losses_also_through_a_checkpoint():
    model, combine = Cut(), losses.GradNorm(SHARED).double()
    first = two_losses(model, 0)
    combine(first, model)
    combine(two_losses(model, 1), model)
    torch.testing.assert_close(combine.first_losses, torch.stack(first).detach())
    again = losses.GradNorm(SHARED).double()
    again.load_state_dict(combine.state_dict())
    torch.testing.assert_close(again.first_losses, combine.first_losses)


# --- PCGrad ------------------------------------------------------------------------------------------------


def naive_projection(g, h):
    """The published loop: each gradient minus its part against the other's original."""
    originals, result = [g.copy(), h.copy()], []
    for i, mine in enumerate((g.copy(), h.copy())):
        other = originals[1 - i]
        if mine @ other < 0:
            mine = mine - (mine @ other) / (other @ other) * other
        result.append(mine)
    return result


def test_pcgrad_gradient_is_the_sum_of_the_projected_gradients_when_they_conflict():
    model, pair = conflicting()
    (g, g_head), (h, _) = (gradients(model, loss) for loss in pair)
    a, b = naive_projection(g.numpy(), h.numpy())
    assert a @ h.numpy() == pytest.approx(0, abs=1e-12) and b @ g.numpy() == pytest.approx(0, abs=1e-12)
    loss = losses.pcgrad(pair, model)
    loss.backward()
    np.testing.assert_allclose(model.backbone.weight.grad.flatten().numpy(), a + b, atol=1e-14)
    torch.testing.assert_close(model.head.weight.grad.flatten(), g_head)
    assert loss.item() == sum(pair).item()


def test_pcgrad_changes_nothing_when_the_gradients_agree():
    model = Cut()
    task_loss, _ = two_losses(model)
    pair = (task_loss, 0.3 * task_loss)
    plain = gradients(model, sum(pair))
    for ours, expected in zip(gradients(model, losses.pcgrad(pair, model)), plain, strict=True):
        torch.testing.assert_close(ours, expected)


def test_pcgrad_measures_the_conflict_over_all_shared_parameters_together():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(numbers(1.0, 2.0))
            self.q = nn.Parameter(numbers(3.0))

    model = Two()
    g, h = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 1.0, -1.0])  # g.h = -2; in p alone it is +1
    linear = lambda c: (model.p * numbers(*c[:2])).sum() + (model.q * numbers(c[2])).sum()  # noqa: E731
    losses.pcgrad((linear(g), linear(h)), model).backward()
    ours = torch.cat([model.p.grad, model.q.grad]).numpy()
    np.testing.assert_allclose(ours, sum(naive_projection(g, h)), atol=1e-14)


def test_pcgrad_leaves_learned_prototypes_their_gradient():
    model = Cut()
    mu = torch.eye(5, 7, dtype=torch.float64, requires_grad=True)
    pair = two_losses(model, prototypes=mu)
    expected = torch.autograd.grad(pair[1], mu, retain_graph=True)[0]
    losses.pcgrad(pair, model).backward()
    torch.testing.assert_close(mu.grad, expected)


def test_pcgrad_is_finite_for_a_gradient_of_zero():
    model = Cut()
    task_loss, feature_loss = two_losses(model)
    losses.pcgrad((task_loss, 0 * feature_loss), model).backward()
    torch.testing.assert_close(model.backbone.weight.grad.flatten(), gradients(model, two_losses(model)[0])[0])


def test_pcgrad_without_a_shared_parameter_says_so():
    model = Cut()
    model.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="share no trainable parameter"):
        losses.pcgrad(two_losses(model), model)


# --- random weights ----------------------------------------------------------------------------------------


def test_random_weights_are_positive_sum_to_1_and_favour_neither_loss():
    combine = losses.RandomWeights(torch.Generator().manual_seed(0))
    drawn = []
    for _ in range(1009):
        pair = [torch.tensor(v, requires_grad=True) for v in (2.0, 3.0)]
        combine(pair).backward()
        drawn.append([x.grad.item() for x in pair])
    drawn = np.array(drawn)
    np.testing.assert_allclose(drawn.sum(1), 1, atol=1e-6)
    # softmax of two normals is a logistic of N(0, 2): mean 1/2, and P(w > 3/4) = P(N(0, 2) > log 3)
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.03) and drawn.min() > 0
    assert (drawn[:, 0] > 0.75).mean() == pytest.approx(0.5 * math.erfc(math.log(3) / 2), abs=0.04)


def test_random_weights_use_their_own_generator_and_go_on_from_a_checkpoint():
    pair = (torch.tensor(2.0), torch.tensor(3.0))
    global_state = torch.get_rng_state()
    combine = losses.RandomWeights(torch.Generator().manual_seed(7))
    combine(pair)
    saved = copy.deepcopy(combine.state_dict())
    ahead = [combine(pair).item() for _ in range(3)]
    again = losses.RandomWeights(torch.Generator())
    again.load_state_dict(saved)
    assert [again(pair).item() for _ in range(3)] == ahead and len(set(ahead)) == 3
    assert torch.equal(torch.get_rng_state(), global_state)
