import copy
import math
import types

import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, N, batches, plain_model, tiny_model
from torch import nn

from sftlib.adaptation import freeze, param_groups
from sftlib.runtime import FLOAT32, Precision
from sftlib.schedules import warmup_cosine
from sftlib.training import Controls, Epoch, Step, evaluate, fit, forward, measure_precision, train_step


def sgd(model, lr=0.1, **settings):
    return torch.optim.SGD(model.parameters(), lr=lr, **settings)


def to_origin(z, y):
    """A feature loss whose gradient is known: ½ mean ‖z‖²."""
    return z.pow(2).sum(1).mean() / 2


def run(model, loader, optimizer, **settings):
    records = list(fit(model, loader, optimizer, **settings))
    return [r for r in records if isinstance(r, Step)], [r for r in records if isinstance(r, Epoch)]


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- one step --------------------------------------------------------------------------------------------------


def test_step_moves_f_and_g_by_minus_rate_times_gradient():
    model, (x, y) = plain_model(), batches()[0]
    f, g = list(model.backbone.parameters()), list(model.head.parameters())
    z = model.backbone(x)
    L = F.cross_entropy(model.head(z), y) + 0.3 * to_origin(z, y)
    gradients = torch.autograd.grad(L, f + g)
    rates = [0.01] * len(f) + [0.2] * len(g)
    expected = [p.detach() - a * d for p, a, d in zip(f + g, rates, gradients, strict=True)]
    optimizer = torch.optim.SGD(param_groups(f=(model.backbone, 0.01), g=(model.head, 0.2)))
    outcome = train_step(model, x, y, optimizer, task_loss=F.cross_entropy, feature_loss=to_origin, feature_weight=0.3)
    for p, e in zip(f + g, expected, strict=True):
        torch.testing.assert_close(p.detach(), e)
    assert outcome.loss.item() == pytest.approx(L.item())
    assert outcome.loss.item() == pytest.approx(outcome.task_loss.item() + 0.3 * outcome.feature_loss.item())


def test_head_hears_only_the_task_loss():
    x, y = batches()[0]
    heads = []
    for weight in (0.0, 5.0):
        model = plain_model()
        train_step(model, x, y, sgd(model), task_loss=F.cross_entropy, feature_loss=to_origin, feature_weight=weight)
        heads.append(model.head.weight)
    assert torch.equal(*heads)


def test_without_a_task_loss_the_feature_loss_trains_alone():
    model, (x, y) = plain_model(), batches()[0]
    head = model.head.weight.clone()
    outcome = train_step(model, x, y, sgd(model), task_loss=None, feature_loss=to_origin)
    assert outcome.loss == outcome.feature_loss and outcome.task_loss == 0
    assert torch.equal(model.head.weight, head)


def test_penalty_and_combine_enter_the_loss():
    model, (x, y) = plain_model(), batches()[0]
    outcome = forward(
        model, x, y, task_loss=F.cross_entropy, feature_loss=to_origin,
        combine=lambda losses, m: 2 * losses[0] + 7 * losses[1], penalty=lambda m: m.head.weight.sum(),
    )  # fmt: skip
    expected = 2 * outcome.task_loss + 7 * outcome.feature_loss + model.head.weight.sum()
    torch.testing.assert_close(outcome.loss, expected)


def test_float64_models_stay_float64():
    model, (x, y) = plain_model().double(), batches()[0]
    assert train_step(model, x.double(), y, sgd(model), task_loss=F.cross_entropy).loss.dtype is torch.float64


def test_losses_are_float32_under_bfloat16():
    model, (x, y) = plain_model(), batches()[0]
    outcome = forward(model, x, y, task_loss=F.cross_entropy, precision=Precision(torch.bfloat16, True))
    exact = forward(model, x, y, task_loss=F.cross_entropy)
    assert outcome.loss.dtype is torch.float32 and outcome.logits.dtype is torch.float32
    torch.testing.assert_close(outcome.logits, exact.logits, atol=0.03, rtol=0.03)
    assert not torch.equal(outcome.logits, exact.logits)


# --- fit -------------------------------------------------------------------------------------------------------


def test_fit_equals_the_plain_loop():
    loader, ours, plain = batches(3), tiny_model(), tiny_model()
    torch.manual_seed(5)  # dropout
    run(ours, loader, sgd(ours, momentum=0.9, weight_decay=0.01), epochs=2)
    torch.manual_seed(5)
    optimizer = sgd(plain, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        plain.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
    assert torch.equal(parameters(ours), parameters(plain))
    assert torch.equal(ours.backbone.norm.running_var, plain.backbone.norm.running_var)


def test_fit_overfits_one_batch():
    model, loader = plain_model(), batches(1)
    _, epochs = run(model, loader, torch.optim.Adam(model.parameters(), 0.03), epochs=60)
    assert epochs[-1].train["accuracy"] == 1.0 and epochs[-1].train["loss"] < 0.1 < epochs[0].train["loss"]


def test_records_count_from_one_and_hold_what_the_step_computed():
    model, loader = plain_model(), batches(3)
    twin = copy.deepcopy(model)
    steps, epochs = run(model, loader, sgd(model), epochs=2, feature_loss=to_origin, feature_weight=0.5)
    assert [(s.step, s.steps, s.epoch) for s in steps] == [(i, 6, 1 + (i > 3)) for i in range(1, 7)]
    assert [(e.epoch, e.epochs, e.train["n"], e.val) for e in epochs] == [(1, 2, 39, None), (2, 2, 39, None)]
    x, y = loader[0]
    z = twin.backbone(x)
    assert steps[0].task_loss == pytest.approx(F.cross_entropy(twin.head(z), y).item())
    assert steps[0].feature_loss == pytest.approx(to_origin(z, y).item())
    assert all(isinstance(v, float) for v in (steps[0].loss, steps[0].lr, steps[0].images_per_s))
    assert all(s.images_per_s > 0 and s.lr == 0.1 for s in steps)


def test_epoch_averages_over_examples_not_batches():
    model = plain_model()
    loader = [batches(1, n=11)[0], batches(1, n=2, seed=3)[0]]
    steps, (epoch,) = run(model, loader, sgd(model), epochs=1)
    assert epoch.train["loss"] == pytest.approx((11 * steps[0].loss + 2 * steps[1].loss) / 13, rel=1e-6)


def test_validation_follows_each_epoch_and_leaves_the_training_mode():
    model, loader = tiny_model(), batches(2)
    val = batches(1, n=5, seed=9)
    records = fit(model, loader, sgd(model), epochs=1, val_loader=val)
    epoch = [r for r in records if isinstance(r, Epoch)][0]
    assert epoch.val == evaluate(model, val)
    assert model.training


def test_fit_trains_in_train_mode_whatever_the_mode_was():
    model = tiny_model().eval()
    before = model.backbone.norm.running_mean.clone()
    run(model, batches(1), sgd(model), epochs=1)
    assert model.backbone.norm.training and not torch.equal(before, model.backbone.norm.running_mean)


def test_schedule_multiplies_each_groups_own_rate():
    model, loader = plain_model(), batches(3)
    optimizer = torch.optim.SGD(param_groups(f=(model.backbone, 0.01), g=(model.head, 0.1)))
    schedule, rates = warmup_cosine(6, warmup=2), []
    for record in fit(model, loader, optimizer, epochs=2, schedule=schedule):
        if isinstance(record, Step):
            rates.append([g["lr"] for g in optimizer.param_groups])
            assert record.lr == pytest.approx(0.1 * schedule(record.step - 1))
    assert rates == [[pytest.approx(0.01 * schedule(i)), pytest.approx(0.1 * schedule(i))] for i in range(6)]


def test_without_a_schedule_a_rate_changed_by_hand_stays():
    model, loader = plain_model(), batches(3)
    optimizer = sgd(model)
    for record in fit(model, loader, optimizer, epochs=1):
        optimizer.param_groups[0]["lr"] = 0.05
        if isinstance(record, Step) and record.step > 1:
            assert record.lr == 0.05


def test_training_stops_where_the_iteration_stops():
    model, loader = plain_model(), batches(3)
    records = fit(model, loader, sgd(model), epochs=5)
    assert isinstance(records, types.GeneratorType)
    start = parameters(model)
    next(records)
    after = parameters(model)
    records.close()
    assert not torch.equal(start, after) and torch.equal(after, parameters(model))


def test_nothing_happens_before_the_first_record_is_asked_for():
    model = plain_model()
    start = parameters(model)
    fit(model, batches(1), sgd(model), epochs=1)
    assert torch.equal(start, parameters(model))


def test_frozen_backbone_stays_in_eval_while_the_head_trains():
    model = tiny_model()
    freeze(model.backbone)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    run(model, batches(2), torch.optim.SGD(param_groups(g=(model.head, 0.1)), momentum=0.9, weight_decay=0.1), epochs=2)
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


def test_first_epoch_goes_on_with_the_count_and_the_schedule():
    schedule = warmup_cosine(4)
    whole, parts, loader = plain_model(), plain_model(), batches(2)
    run(whole, loader, sgd(whole), epochs=2, schedule=schedule)
    optimizer = sgd(parts)
    run(parts, loader, optimizer, epochs=1, schedule=schedule)
    steps, epochs = run(parts, loader, optimizer, epochs=2, first_epoch=2, schedule=schedule)
    assert torch.equal(parameters(whole), parameters(parts))
    assert [s.step for s in steps] == [3, 4] and epochs[0].epoch == 2


# --- evaluate --------------------------------------------------------------------------------------------------


def test_evaluate_averages_over_examples_and_restores_every_mode():
    model = tiny_model()
    model.backbone.norm.eval()
    modes = [m.training for m in model.modules()]
    loader = [batches(1, n=11)[0], batches(1, n=2, seed=3)[0]]
    result = evaluate(model, loader)
    assert [m.training for m in model.modules()] == modes
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    model.eval()
    assert result["n"] == 13
    assert result["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)
    assert result["accuracy"] == pytest.approx((model(x).argmax(1) == y).float().mean().item())


def test_evaluate_leaves_no_trace_on_batchnorm_and_gradients():
    model = tiny_model()
    before = model.backbone.norm.running_mean.clone()
    evaluate(model, batches(2))
    assert torch.equal(before, model.backbone.norm.running_mean)
    assert all(p.grad is None for p in model.parameters())


def test_evaluate_of_an_empty_loader_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        evaluate(tiny_model(), [])


# --- what fit refuses, at the call -----------------------------------------------------------------------------


def test_fit_refuses_a_trainable_parameter_that_no_group_holds():
    model = plain_model()
    with pytest.raises(ValueError, match=r"backbone\.1\.weight \(and 1 more\) can train, but no group"):
        fit(model, batches(), torch.optim.SGD(model.head.parameters(), lr=0.1), epochs=1)


def test_fit_refuses_a_head_that_was_replaced_after_the_optimizer_was_built():
    model = plain_model()
    optimizer = sgd(model)
    model.head = copy.deepcopy(model.head)
    with pytest.raises(ValueError, match=r"head\.weight .* can train, but no group"):
        fit(model, batches(), optimizer, epochs=1)


def test_fit_refuses_a_frozen_parameter_in_the_optimizer():
    model = plain_model()
    optimizer = sgd(model, momentum=0.9)
    freeze(model.backbone)
    with pytest.raises(ValueError, match=r"backbone\.1\.weight .* is frozen, but the optimizer holds it"):
        fit(model, batches(), optimizer, epochs=1)


def test_fit_refuses_when_nothing_can_train():
    model = plain_model()
    freeze(model)
    with pytest.raises(ValueError, match="nothing can train"):
        fit(model, batches(), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), epochs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"epochs": 1, "first_epoch": 2}, "first_epoch=2"),
        ({"train_loader": []}, "train_loader has no batch"),
        ({"train_loader": iter([])}, "got a list_iterator as train_loader"),
        ({"train_loader": torch.zeros(3, 3)}, "got a Tensor as train_loader"),
        ({"val_loader": []}, "val_loader has no batch"),
        ({"task_loss": None}, "neither task_loss nor feature_loss"),
        ({"task_loss": "cross_entropy"}, "task_loss='cross_entropy'"),
        ({"feature_weight": float("nan")}, "feature_weight=nan"),
        ({"feature_weight": -1.0}, "feature_weight=-1.0"),
        ({"combine": lambda losses, model: losses[0]}, "combine with one loss"),
        ({"schedule": 0.1}, "schedule=0.1"),
        ({"penalty": 0.1}, "penalty=0.1"),
        ({"optimizer": None}, "got a NoneType as optimizer"),
        ({"model": nn.Linear(2, 2)}, r"without \.backbone"),
    ],
)
def test_fit_checks_its_arguments_at_the_call(change, message):
    model = plain_model()
    settings = {"model": model, "train_loader": batches(), "optimizer": sgd(model), "epochs": 1} | change
    with pytest.raises(ValueError, match=message):
        fit(**settings)


# --- losses that are not finite --------------------------------------------------------------------------------


def test_a_rate_too_large_stops_with_step_rate_and_cause_and_the_last_good_state():
    model, loader = plain_model(), batches(7)
    optimizer, states = sgd(model, lr=1e38, momentum=0.9), [parameters(model)]
    with pytest.raises(FloatingPointError) as caught:
        for _ in fit(model, loader, optimizer, epochs=5):
            states.append(parameters(model))
    message = str(caught.value)
    assert f"at step {len(states)}, learning rate 1e+38" in message and "rate is likely too large" in message
    assert "after step 0" in message and torch.equal(parameters(model), states[0])
    assert all(torch.isfinite(s["momentum_buffer"]).all() for s in optimizer.state.values() if "momentum_buffer" in s)


def test_the_kept_state_is_a_recent_one():
    model, loader = plain_model(), batches(50)
    loader[44] = (loader[44][0] * float("nan"), loader[44][1])
    optimizer, states, momenta = sgd(model, momentum=0.9), [parameters(model)], [None]
    with pytest.raises(FloatingPointError, match="step 45,.* the batch holds values .* after step 40"):
        for record in fit(model, loader, optimizer, epochs=1):
            states.append(parameters(model))
            momenta.append(optimizer.state[model.head.weight]["momentum_buffer"].clone())
            assert math.isfinite(record.loss)
    assert torch.equal(parameters(model), states[40])
    assert torch.equal(optimizer.state[model.head.weight]["momentum_buffer"], momenta[40])


def test_a_loss_wrong_from_the_start_is_not_blamed_on_the_rate():
    model = plain_model()
    with pytest.raises(FloatingPointError, match="step 1,.* before anything was learned"):
        list(fit(model, batches(), sgd(model), epochs=1, task_loss=lambda logits, y: logits.sum() * float("nan")))


def test_buffers_and_a_feature_loss_with_state_are_restored_too():
    class Pull(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, z, y):
            self.seen += 1
            return to_origin(z, y)

    model, pull = tiny_model(), Pull()
    loader = batches(3)
    loader[2] = (loader[2][0] * float("inf"), loader[2][1])
    with pytest.raises(FloatingPointError):
        list(fit(model, loader, sgd(model), epochs=1, feature_loss=pull))
    assert pull.seen == 0 and torch.isfinite(model.backbone.norm.running_mean).all()


# --- precision -------------------------------------------------------------------------------------------------


def test_measure_precision_changes_nothing_and_names_every_candidate():
    model, (x, y) = tiny_model(), batches()[0]
    before = copy.deepcopy(model.state_dict())
    choice = measure_precision(model, x, y)
    assert choice.precision in choice.rates and len(choice.rates) == 3 and FLOAT32 in choice.rates
    assert all(rate > 0 for rate in choice.rates.values()) and str(choice).count("<- chosen") == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert measure_precision(model, x).rates.keys() == choice.rates.keys()


def test_fit_in_bfloat16_channels_last_learns_as_well():
    losses = []
    for precision in (FLOAT32, Precision(torch.bfloat16, True)):
        model = plain_model()
        _, epochs = run(model, batches(2), torch.optim.Adam(model.parameters(), 0.01), epochs=20, precision=precision)
        losses.append(epochs[-1].train["loss"])
        assert all(p.dtype is torch.float32 for p in model.parameters())
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert D and N and K


# --- controls --------------------------------------------------------------------------------------------------


def test_untouched_controls_change_no_bit_with_a_schedule_and_without():
    for schedule in (None, warmup_cosine(6, warmup=2)):
        ends = []
        for controls in (None, Controls()):
            model = tiny_model()
            torch.manual_seed(5)
            optimizer = sgd(model, momentum=0.9)
            run(model, batches(3), optimizer, epochs=2, schedule=schedule, controls=controls, feature_loss=to_origin)
            ends.append(parameters(model))
        assert torch.equal(*ends)


def test_controls_set_between_two_records_hold_from_the_next_step_on():
    model, loader, controls = plain_model(), batches(5), Controls()
    optimizer = torch.optim.SGD(param_groups(f=(model.backbone, 0.01), g=(model.head, 0.1)))
    schedule, seen = warmup_cosine(10), []
    records = fit(
        model, loader, optimizer, epochs=2, schedule=schedule, feature_loss=to_origin, feature_weight=0.3,
        controls=controls,
    )  # fmt: skip
    for record in records:
        if isinstance(record, Step):
            seen.append((record.lr, record.feature_weight))
            assert record.loss == pytest.approx(record.task_loss + record.feature_weight * record.feature_loss)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(record.lr / 10)
            if record.step == 3:
                controls.rate, controls.feature_weight = 0.5, 0.0
            if record.step == 7:
                controls.rate, controls.feature_weight = 1, None
    rates = [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1, 1]
    assert [lr for lr, _ in seen] == [pytest.approx(0.1 * r * schedule(i)) for i, r in enumerate(rates)]
    assert [w for _, w in seen] == [0.3] * 3 + [0.0] * 4 + [0.3] * 3


def test_without_a_schedule_the_control_multiplies_the_rate_the_group_was_built_with():
    model, controls, rates = plain_model(), Controls(), []
    for record in fit(model, batches(5), sgd(model), epochs=1, controls=controls):
        if isinstance(record, Step):
            rates.append(record.lr)
            controls.rate = [0.5, 0.5, 3, 1.0, 1.0][record.step - 1]
    assert rates == [0.1, 0.05, 0.05, pytest.approx(0.3), 0.1]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", True, None])
def test_controls_refuse_what_is_no_finite_number_of_at_least_zero(value):
    controls, model = Controls(), plain_model()
    with pytest.raises(ValueError, match="got rate=.* expected a finite number of at least 0"):
        controls.rate = value
    assert controls == Controls(1.0, None)
    if value is not None:
        with pytest.raises(ValueError, match="got feature_weight="):
            Controls(feature_weight=value)
    with pytest.raises(AttributeError):
        controls.lr = 0.1
    with pytest.raises(ValueError, match="got a dict as controls"):
        fit(model, batches(), sgd(model), epochs=1, controls={"rate": 1.0})


# --- no waiting for the device ---------------------------------------------------------------------------------


def test_no_step_reads_anything_from_the_device():
    """Tensors of the "meta" device have no values: what would make a GPU wait, .item(), a branch, a copy, fails."""
    model, x, y = tiny_model().to("meta"), torch.empty(N, 3, 5, 5, device="meta"), torch.empty(N, device="meta").long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    records = fit(
        model, [(x, y)] * 19, optimizer, epochs=1, feature_loss=to_origin, schedule=warmup_cosine(19, warmup=3),
        penalty=lambda model: model.head.weight.square().sum(), precision=Precision(torch.float32, True),
    )  # fmt: skip
    for _, record in zip(range(19), records, strict=False):
        assert isinstance(record.lr, float) and record.run.hits.count == record.step * N
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        record.loss  # noqa: B018


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_the_gpu():
    model, data = tiny_model().cuda(), [(x.cuda(), y.cuda()) for x, y in batches(19)]
    records = fit(model, data, torch.optim.AdamW(model.parameters(), lr=0.01), epochs=1, feature_loss=to_origin)
    next(records)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(17):
            next(records)
    finally:
        torch.cuda.set_sync_debug_mode("default")
