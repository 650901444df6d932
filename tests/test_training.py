import copy
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from helpers import K, N, batches, plain_model, tiny_model
from torch import nn

from sftlib import datasets
from sftlib.adaptation import freeze, param_groups
from sftlib.datasets import augment
from sftlib.datasets.splits import PictureSplit
from sftlib.losses import GradNorm, UncertaintyWeights
from sftlib.metrics import Accuracy
from sftlib.runtime import FLOAT32, Precision
from sftlib.schedules import warmup_cosine
from sftlib.training import (
    Controls,
    Epoch,
    Objective,
    Step,
    evaluate,
    fit,
    forward,
    measure_precision,
    train_step,
)  # fmt: skip


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
    combine, penalty = (lambda losses, m: 2 * losses[0] + 7 * losses[1]), (lambda m: m.head.weight.sum())
    objective = Objective(F.cross_entropy, to_origin, combine=combine, penalty=penalty)
    outcome = forward(model, x, y, objective)
    expected = 2 * outcome.task_loss + 7 * outcome.feature_loss + model.head.weight.sum()
    torch.testing.assert_close(outcome.loss, expected)


def test_float64_models_stay_float64():
    model, (x, y) = plain_model().double(), batches()[0]
    assert train_step(model, x.double(), y, sgd(model), task_loss=F.cross_entropy).loss.dtype is torch.float64


def test_losses_are_float32_under_bfloat16():
    model, (x, y) = plain_model(), batches()[0]
    outcome = forward(model, x, y, Objective(), Precision(torch.bfloat16, True))
    exact = forward(model, x, y, Objective())
    assert outcome.loss.dtype is torch.float32 and outcome.output.dtype is torch.float32
    torch.testing.assert_close(outcome.output, exact.output, atol=0.03, rtol=0.03)
    assert not torch.equal(outcome.output, exact.output)


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
    assert all(isinstance(v, float) for v in (steps[0].loss, steps[0].lr, steps[0].examples_per_s))
    assert all(s.examples_per_s > 0 and s.lr == 0.1 for s in steps)


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


def test_a_schedule_of_epochs_in_place_of_steps_is_warned_of():
    model = plain_model()
    with pytest.warns(UserWarning, match=r"schedule\(2\) and what follows is 0, so nothing moves from step 3 of 9 on"):
        run(model, batches(3), sgd(model), epochs=3, schedule=warmup_cosine(3))
    run(model, batches(3), sgd(model), epochs=3, schedule=warmup_cosine(9))  # 0 at the last step alone
    run(model, batches(3), sgd(model), epochs=1, schedule=lambda step: step / 3)  # and at the first


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
    assert isinstance(records, Iterator)
    start = parameters(model)
    next(records)
    after = parameters(model)
    records.close()
    assert not torch.equal(start, after) and torch.equal(after, parameters(model))


def test_nothing_happens_before_the_first_record_is_asked_for():
    model = plain_model()
    start = parameters(model)
    records = fit(model, batches(1), sgd(model), epochs=1)
    assert "nothing is trained yet: iterate over it" in repr(records)
    assert torch.equal(start, parameters(model))
    next(records)
    assert "nothing" not in repr(records) and not torch.equal(start, parameters(model))


def test_a_run_that_nobody_iterates_over_is_warned_of():
    model = plain_model()
    with pytest.warns(UserWarning, match="fit: nothing is trained yet: iterate over it"):
        fit(model, batches(1), sgd(model), epochs=1)
    fit(model, batches(1), sgd(model), epochs=1).close()  # ended on purpose
    next(fit(model, batches(1), sgd(model), epochs=1))


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
    with pytest.raises(ValueError, match="without a single batch"):
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
        ({"model": nn.Linear(2, 2)}, r"expected Model\(backbone, head\)"),
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


def test_a_remembered_precision_is_not_measured_again_and_damage_is(tmp_path, monkeypatch):
    from sftlib.arithmetic import precision

    monkeypatch.setattr(precision, "cache_folder", lambda: tmp_path)
    model, (x, y) = tiny_model(), batches()[0]
    calls, measured = [], precision._measured
    monkeypatch.setattr(precision, "_measured", lambda *given: calls.append(1) or measured(*given))
    first, again = (measure_precision(model, x, y, remember=True) for _ in range(2))
    assert first == again and len(calls) == 1
    measure_precision(model, x[:7], y[:7], remember=True)
    freeze(model.backbone)
    measure_precision(model, x, y, remember=True)
    measure_precision(model, x, remember=True)
    assert len(calls) == 4  # other batches, other parts that train, inference
    (tmp_path / "precision.json").write_text('{"half', encoding="utf-8")
    assert measure_precision(model, x, remember=True).precision in first.rates and len(calls) == 5


def test_fit_in_bfloat16_channels_last_learns_as_well():
    losses = []
    for precision in (FLOAT32, Precision(torch.bfloat16, True)):
        model = plain_model()
        _, epochs = run(model, batches(2), torch.optim.Adam(model.parameters(), 0.01), epochs=20, precision=precision)
        losses.append(epochs[-1].train["loss"])
        assert all(p.dtype is torch.float32 for p in model.parameters())
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


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
        assert isinstance(record.lr, float) and record.run.tally.examples == record.step * N
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


# --- what a batch must be --------------------------------------------------------------------------------------


def wrong(change):
    x, y = batches(1)[0]
    return change(x, y)


WRONG = [
    (lambda x, y: (x, y + 1), "got labels from 1 to 3; expected 0 … 2 for 3 outputs of the head: subtract 1"),
    (lambda x, y: (x, y - 100), "got labels from -100 to"),
    (lambda x, y: (x, y.float()), r"y torch\.float32 .* class numbers, whole numbers"),
    (lambda x, y: (x, y > 0), r"y torch\.bool .* class numbers, whole numbers"),
    (
        lambda x, y: (x, F.one_hot(y, K).float()),
        r"y torch\.float32 of shape \(13, 3\).*soft",
    ),  # soft, or several an example
    (lambda x, y: (x, y[:, None]), r"of shape \(13, 1\).*metric of their own"),
    (lambda x, y: (x, ["cat"] * N), "got y as list of str; expected a whole number .* in place of each text"),
    (lambda x, y: (x, ("cat",) * N), "got y as str; expected a whole number"),
    (lambda x, y: (x, y.tolist()), "got y as list of int; expected one tensor"),
    (lambda x, y: {"x": x, "y": y}, r"got a dict as a batch; expected \(x, y\)"),
    (lambda x, y: (x, y, y), "got a tuple of 3 as a batch"),
    (lambda x, y: x[:2], "got a Tensor as a batch"),  # which would unpack into two
    (lambda x, y: (x, y[:-1]), "got 13 examples in x and 12 in y"),
    (lambda x, y: ((255 * x.sigmoid()).byte(), y), r"got x of torch\.uint8.* preprocess, or x\.float\(\) / 255"),
    (lambda x, y: ((255 * x.sigmoid()).int(), y), r"got x of torch\.int32"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_batch_is_named_by_fit_and_evaluate_before_anything_moves(change, message):
    for model in (plain_model(), tiny_model()):
        state = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=message):
            evaluate(model, [wrong(change)])
        with pytest.raises(ValueError, match=message):
            list(fit(model, [wrong(change)], sgd(model), epochs=1))
        same = {k for k, v in model.state_dict().items() if torch.equal(v, state[k])}
        assert {k for k in state if "running" not in k and "tracked" not in k} <= same


def test_a_label_out_of_range_in_a_later_batch_is_named_too():
    model, loader = plain_model(), batches(3)
    loader[2] = (loader[2][0], loader[2][1] + 5)
    with pytest.raises(ValueError, match="got labels from 0 to 7; expected 0 … 2"):
        list(fit(model, loader, sgd(model), epochs=1))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, "numpy", "float64"])
def test_other_whole_numbers_and_arrays_of_numpy_give_the_same_run(kind):
    ends = []
    for change in (False, True):
        loader = batches(3)
        if change and isinstance(kind, torch.dtype):
            loader = [(x, y.to(kind)) for x, y in loader]
        elif change:
            loader = [(x.numpy() if kind == "numpy" else x.numpy().astype("float64"), y.numpy()) for x, y in loader]
        model = plain_model()
        run(model, loader, sgd(model), epochs=2)
        ends.append((parameters(model), evaluate(model, loader)))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, K, 2), (N + 1, K)])
def test_outputs_that_have_no_accuracy_are_refused(shape):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z):
            return self.scale * torch.ones(shape) + z.sum() * 0

    model = plain_model()
    model.head = Head()
    loss = lambda logits, y: logits.square().mean()  # noqa: E731
    for use in (lambda: evaluate(model, batches(), task_loss=loss),
                lambda: list(fit(model, batches(), sgd(model), epochs=1, task_loss=loss))):  # fmt: skip
        with pytest.raises(ValueError, match="expected a score for each class"):
            use()


# --- losses ----------------------------------------------------------------------------------------------------


def test_the_loss_with_class_weights_does_not_depend_on_the_batches():
    model, (x, y) = plain_model(), batches(1, n=17)[0]
    y = y.sort().values  # a batch of one class has the mean as its weighted mean
    w = torch.tensor([0.1, 2.0, 5.0])
    with torch.no_grad():
        logp = F.log_softmax(model(x), 1)
    expected = sum(-w[k] * logp[i, k] for i, k in enumerate(y)) / sum(w[k] for k in y)
    loss = nn.CrossEntropyLoss(weight=w)
    for size in (1, 2, 5, 17):
        loader = list(zip(x.split(size), y.split(size), strict=True))
        found = evaluate(model, loader, task_loss=loss, terms=lambda y: w[y].sum())
        assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
        with pytest.raises(ValueError, match="pass terms=, a function of y"):  # forgotten
            mixed = torch.tensor([16, 0, *range(1, 16)])  # two classes among the first two examples
            evaluate(model, list(zip(x[mixed].split(size), y[mixed].split(size), strict=True)), task_loss=loss)


@pytest.mark.parametrize(
    ("terms", "got"),
    [(lambda y: None, "None"), (lambda y: y >= 0, r"a tensor of shape"), (lambda y: -len(y), "-"),
     (lambda y: float("nan"), "nan"), (lambda y: "7", "'7'")],
)  # fmt: skip
def test_terms_are_one_number(terms, got):
    model = plain_model()
    start = parameters(model)
    for use in (
        lambda: evaluate(model, batches(), terms=terms),
        lambda: list(fit(model, batches(), sgd(model), epochs=1, terms=terms)),
    ):
        with pytest.raises(ValueError, match=rf"got terms\(y\) = {got}.*expected one number of at least 0"):
            use()
    assert torch.equal(start, parameters(model))


@pytest.mark.parametrize(
    ("given", "message"),
    [(None, "got a NoneType from validate"), (0.5, "got a float from validate"), ({3: 0.5}, "got a dict from validate"),
     ({"a": "0.5"}, "got a str as 'a' from validate"), ({"a": torch.ones(2)}, "got a Tensor as 'a' from validate")],
)  # fmt: skip
def test_what_validate_gives_must_be_numbers_by_name(given, message):
    model = plain_model()
    with pytest.raises(ValueError, match=message):
        list(fit(model, batches(), sgd(model), epochs=1, validate=lambda model: given))


def test_a_tensor_with_one_number_from_validate_is_a_number():
    model = plain_model()
    validate = lambda model: {"a": model.head.weight.sum(), "each": [0.25, 0.75]}  # noqa: E731
    *_, epoch = fit(model, batches(), sgd(model), epochs=1, validate=validate)
    assert epoch.val == {"a": pytest.approx(model.head.weight.sum().item()), "each": [0.25, 0.75]}
    assert type(epoch.val["a"]) is float


def test_a_measure_that_several_passes_would_share_is_refused():
    model, shared = plain_model(), Accuracy()
    for use in (
        lambda: evaluate(model, batches(), metric=lambda: shared),
        lambda: fit(model, batches(), sgd(model), epochs=1, metric=lambda: shared),
    ):
        with pytest.raises(ValueError, match="gives the same Accuracy each time.*expected a new one"):
            use()


def test_a_batch_without_an_example_is_refused_before_it_is_computed():
    model = plain_model()
    empty = [tuple(t[:0] for t in batches()[0])]
    with pytest.raises(ValueError, match="got a batch without an example"):
        list(fit(model, batches() + empty, sgd(model), epochs=1))


def test_pictures_in_float64_are_named():
    model, loader = plain_model(), [(x.double(), y) for x, y in batches()]
    for use in (lambda: evaluate(model, loader), lambda: list(fit(model, loader, sgd(model), epochs=1))):
        with pytest.raises(ValueError, match=r"got x of torch\.float64.*expected its own floating point: x\.float"):
            use()


ONE_CLASS_AFTER_THE_OTHER = torch.arange(15) // 5


@pytest.mark.parametrize(
    ("y", "size", "loss"),
    [
        (ONE_CLASS_AFTER_THE_OTHER, 5, nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 5.0]))),
        (ONE_CLASS_AFTER_THE_OTHER, 1, nn.CrossEntropyLoss(reduction="sum")),
        (torch.tensor([0, 1, 2, 0, 1, 2, 0, -100, 1, -100, 2]), 3, F.cross_entropy),  # none left out at first
        (torch.tensor([0, 1, 2, 0, 1, 2, 0, 255, 1, 255, 2]), 3, nn.CrossEntropyLoss(ignore_index=255)),
    ],
)
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_terms_that_are_forgotten_are_seen_in_whatever_batch_they_would_count(y, size, loss, micro_batch):
    x = torch.randn(len(y), 3, 5, 5, generator=torch.Generator().manual_seed(5))
    loader = list(zip(x.split(size), y.split(size), strict=True))
    with pytest.raises(ValueError, match="pass terms=, a function of y"):
        evaluate(plain_model(), loader, task_loss=loss, metric=None)
    with pytest.raises(ValueError, match="pass terms=, a function of y"):
        model = plain_model()
        list(fit(model, loader, sgd(model), epochs=1, task_loss=loss, metric=None, micro_batch=micro_batch))


class OfPixels(nn.Module):
    """x (N, 4, …) -> logits (N, 3, …)"""

    def forward(self, x):
        return x[:, :3] * 2 + x[:, 3:]


@pytest.mark.parametrize("ignored", [-100, 255])
def test_terms_that_are_forgotten_are_seen_where_a_later_picture_has_pixels_that_do_not_count(ignored):
    x, y = (
        torch.randn(7, 4, 5, 3, generator=torch.Generator().manual_seed(5)),
        torch.randint(3, (7, 5, 3), generator=torch.Generator().manual_seed(6)),
    )
    y[5, 2:] = ignored
    loss, model = nn.CrossEntropyLoss(ignore_index=ignored), OfPixels()
    model.anchor = nn.Parameter(torch.zeros(1))  # a device
    expected = loss(model(x), y).item()
    for size in (1, 2, 7):
        loader = list(zip(x.split(size), y.split(size), strict=True))
        settings = {"task_loss": loss, "metric": None}
        found = evaluate(model, loader, terms=lambda y: (y != ignored).sum(), **settings)
        assert found["loss"] == pytest.approx(expected, rel=1e-6)
        with pytest.raises(ValueError, match="pass terms=, a function of y"):
            evaluate(model, loader, **settings)


def test_sentences_of_other_lengths_in_each_batch_need_terms():
    model = OfPixels()
    model.anchor = nn.Parameter(torch.zeros(1))
    loader = [(torch.randn(2, 4, T), torch.randint(3, (2, T))) for T in (5, 7)]
    with pytest.raises(ValueError, match="got 5 targets an example in one batch and 7 in another"):
        evaluate(model, loader)
    losses = [F.cross_entropy(model(x), y, reduction="sum").item() for x, y in loader]
    assert evaluate(model, loader, terms=torch.numel)["loss"] == pytest.approx(sum(losses) / 24, rel=1e-6)
    single = [(x[:1], y[:1]) for x, y in loader]
    losses = [F.cross_entropy(model(x), y, reduction="sum").item() for x, y in single]
    assert evaluate(model, single, terms=torch.numel)["loss"] == pytest.approx(sum(losses) / 12, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda logits, y: F.cross_entropy(logits, y, reduction="none"),
            r"task_loss of shape \(13,\).*reduction='none'",
        ),
        (lambda logits, y: F.cross_entropy(logits, y, reduction="sum"), "leave out reduction='sum'"),
        (lambda logits, y: F.cross_entropy(logits, y).item(), "task_loss of type float"),
    ],
)
def test_a_loss_that_is_no_mean_over_examples_is_refused(loss, message):
    model = plain_model()
    start = parameters(model)
    with pytest.raises(ValueError, match=message):
        evaluate(model, batches(), task_loss=loss)
    with pytest.raises(ValueError, match=message):
        list(fit(model, batches(), sgd(model), epochs=1, task_loss=loss))
    assert torch.equal(start, parameters(model))


def test_a_loss_that_compares_examples_says_so_by_its_terms():
    loss = lambda logits, y: F.cross_entropy(logits, y) + logits.std(0).mean()  # noqa: E731
    model = plain_model()
    for use in (
        lambda: evaluate(model, batches(), task_loss=loss),
        lambda: next(fit(model, batches(), sgd(model), task_loss=loss, epochs=1)),
    ):
        with pytest.raises(ValueError, match="compares the examples of a batch"):
            use()
    list(fit(model, batches(), sgd(model), epochs=1, task_loss=loss, terms=None))


def test_one_name_means_one_thing_in_training_and_validation():
    model, loader = plain_model(), batches(1)
    x, y = loader[0]
    z = model.backbone(x)
    L_g, L_f, penalty = F.cross_entropy(model.head(z), y), to_origin(z, y), model.head.weight.square().sum()
    settings = {"feature_loss": to_origin, "feature_weight": 0.3, "penalty": lambda m: m.head.weight.square().sum()}
    optimizer = sgd(model, lr=0.0)
    _, (epoch,) = run(model, loader, optimizer, epochs=1, val_loader=loader, **settings)
    assert epoch.train["loss"] == pytest.approx(L_g.item()) == pytest.approx(epoch.val["loss"])
    assert epoch.train["total"] == pytest.approx((L_g + 0.3 * L_f + penalty).item())
    _, (epoch,) = run(model, loader, optimizer, epochs=1, val_loader=loader, task_loss=None, feature_loss=to_origin)
    assert epoch.train["total"] == pytest.approx(L_f.item())
    assert "loss" not in epoch.train and "loss" not in epoch.val


@pytest.mark.parametrize("name", ["task_loss", "feature_loss", "combine", "penalty"])
def test_parameters_of_losses_that_no_group_holds_are_named(name):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *given):
            if name == "combine":
                return self.scale * sum(given[0])
            return self.scale * (F.cross_entropy(*given) if name == "task_loss" else given[0].sum())

    model, own = plain_model(), Own()
    settings = {"feature_loss": to_origin, "epochs": 1} | {name: own}
    with pytest.raises(ValueError, match=rf"{name}\.scale can train, but no group of the optimizer holds it"):
        fit(model, batches(), sgd(model), **settings)
    freeze(own)
    fit(model, batches(), sgd(model), **settings).close()


# --- BatchNorm -------------------------------------------------------------------------------------------------


def test_a_batch_of_one_under_batchnorm_is_refused_at_the_call_where_the_loader_tells():
    from torch.utils.data import DataLoader, TensorDataset

    x, y = batches(1, n=13)[0]
    data = TensorDataset(x, y)
    model = tiny_model()
    for loader in (DataLoader(data, 4), DataLoader(data, 1), [(x[:4], y[:4]), (x[4:5], y[4:5])]):
        with pytest.raises(ValueError, match=r"a batch of 1 example and backbone\.norm, a BatchNorm in train mode"):
            fit(model, loader, sgd(model), epochs=1)
    for micro in (1, 2):
        with pytest.raises(ValueError, match=f"parts of 1 example .micro_batch={micro} of 13"):
            fit(model, [(x, y)], sgd(model), epochs=1, micro_batch=micro)
    next(fit(model, DataLoader(data, 4, drop_last=True), sgd(model), epochs=1))
    freeze(model.backbone)
    next(fit(model, DataLoader(data, 4), torch.optim.SGD(model.head.parameters(), lr=0.1), epochs=1))


def test_a_batch_of_one_of_a_loader_that_does_not_tell_is_refused_before_its_step():
    class Loader:
        def __len__(self):
            return 2

        def __iter__(self):
            (x, y) = batches(1)[0]
            return iter([(x[:5], y[:5]), (x[5:6], y[5:6])])

    model = tiny_model()
    records = fit(model, Loader(), sgd(model), epochs=1)
    next(records)
    mean = model.backbone.norm.running_mean.clone()
    with pytest.raises(ValueError, match="a batch of 1 example"):
        next(records)
    assert torch.equal(mean, model.backbone.norm.running_mean)


def test_frozen_by_hand_with_batchnorm_is_warned_of():
    model = tiny_model()
    model.backbone.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"backbone\.norm require no gradient.* statistics move"):
        next(fit(model, batches(), sgd(model.head), epochs=1))
    freeze(model.backbone)
    next(fit(model, batches(), sgd(model.head), epochs=1))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"task_loss": nn.CrossEntropyLoss}, r"task_loss=CrossEntropyLoss, a class; .*: CrossEntropyLoss\(\)"),
        ({"feature_loss": nn.MSELoss}, r"feature_loss=MSELoss, a class"),
        ({"metric": Accuracy()}, "got a Accuracy; expected what makes one: metric=Accuracy without brackets"),
    ],
)
def test_a_class_for_a_function_and_a_measure_for_what_makes_one_are_named(settings, message):
    model = plain_model()
    with pytest.raises(ValueError, match=message):
        fit(model, batches(), sgd(model), epochs=1, **settings)


def test_a_split_where_a_loader_is_expected_is_told_what_makes_one():
    split = PictureSplit(torch.zeros(3, 3, 5, 5, dtype=torch.uint8), torch.arange(3) % 2, tuple("abc"))
    with pytest.raises(ValueError, match=r"sftlib\.datasets\.loader\(split, …\) makes batches"):
        evaluate(plain_model(), split)


def test_a_module_that_was_given_an_attribute_requires_grad_is_warned_of():
    model = plain_model()
    model.backbone.requires_grad = False
    start = parameters(model.backbone)
    with pytest.warns(UserWarning, match="backbone has an attribute requires_grad, which freezes nothing"):
        next(fit(model, batches(), sgd(model), epochs=1))
    assert not torch.equal(start, parameters(model.backbone))


def test_a_loader_that_augments_is_warned_of_where_it_is_to_measure():
    pictures = torch.randint(256, (7, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    split = PictureSplit(pictures, torch.arange(7) % 2, tuple("abcdefg"))
    how = {"preprocess": lambda p: p / 255, "batch_size": 3}
    model = plain_model()
    evaluate(model, datasets.loader(split, **how, shuffle=True))
    augmenting = datasets.loader(split, **how, augment=augment.flip)
    with pytest.warns(UserWarning, match="measures what it drew and not its split"):
        evaluate(model, augmenting)
    with pytest.warns(UserWarning, match="measures what it drew"):
        evaluate(model, datasets.loader(split, **how, weights=torch.ones(7)))
    with pytest.warns(UserWarning, match="measures what it drew"):
        list(fit(model, augmenting, sgd(model), epochs=1, val_loader=augmenting))


# --- rates, formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [math.nan, math.inf, -0.1])
def test_rates_and_schedules_that_cannot_be_meant_are_refused(lr):
    model = plain_model()
    optimizer = sgd(model)
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match="got lr="):
        fit(model, batches(), optimizer, epochs=1)
    start = parameters(model)
    with pytest.raises(ValueError, match=r"got schedule\(0\)="):
        next(fit(model, batches(), sgd(model), epochs=1, schedule=lambda step: lr))
    assert torch.equal(start, parameters(model))


@pytest.mark.parametrize(
    ("precision", "message"),
    [("bf16", "precision='bf16'"), (Precision(torch.float16), "got torch.float16 for training")],
)
def test_a_precision_that_does_not_train_is_refused(precision, message):
    model, (x, y) = plain_model(), batches()[0]
    for use in (
        lambda: fit(model, batches(), sgd(model), epochs=1, precision=precision),
        lambda: train_step(model, x, y, sgd(model), task_loss=F.cross_entropy, precision=precision),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_what_has_no_parameters_and_an_optimizer_that_wants_a_closure():
    model = plain_model()
    with pytest.raises(ValueError, match="got LBFGS"):
        fit(model, batches(), torch.optim.LBFGS(model.parameters()), epochs=1)
    still = type(model)(nn.Flatten(), nn.Identity())
    assert evaluate(still, [(torch.eye(5), torch.arange(5))])["accuracy"] == 1.0
    with pytest.raises(ValueError, match="nothing can train: .* or there is none"):
        fit(still, batches(), sgd(model), epochs=1)


def test_a_model_that_cannot_be_copied_is_told():
    model = plain_model()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.head)
    model(batches()[0][0])
    with pytest.raises(ValueError, match=r"cannot be copied.*parametrizations\.weight_norm"):
        measure_precision(model, *batches()[0])


# --- no state that is not finite -------------------------------------------------------------------------------


class Root(torch.autograd.Function):
    """z -> z, whose gradient is NaN, as that of a square root at 0"""

    @staticmethod
    def forward(ctx, z):
        return z.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.parametrize("bad", [0, 6])
def test_a_nan_gradient_of_a_finite_loss_in_the_last_step_does_not_stay(bad):
    model, calls, states = plain_model(), [], []
    loader = batches(bad + 1)

    def loss(z, y):
        calls.append(1)
        return to_origin(Root.apply(z) if len(calls) == bad + 1 else z, y)

    with pytest.raises(FloatingPointError, match=f"not finite after the update at step {bad + 1},.* after step 0"):
        for _ in fit(model, loader, sgd(model), epochs=1, feature_loss=loss):
            states.append(parameters(model))
    assert len(states) == bad and all(s.isfinite().all() for s in states)
    assert torch.equal(parameters(model), parameters(plain_model()))


def test_a_rate_of_1e30_in_a_run_of_one_batch_reaches_no_record():
    model = plain_model()
    with pytest.raises(FloatingPointError, match=r"learning rate 1e\+30.* rate is likely too large"):
        next(fit(model, batches(1), sgd(model, lr=1e30), epochs=1))
    assert torch.equal(parameters(model), parameters(plain_model()))


@pytest.mark.parametrize("name", ["GradNorm", "UncertaintyWeights"])
def test_a_balancers_own_state_comes_back_too(name):
    model, loader = plain_model(), batches(3)
    loader[2] = (loader[2][0] * math.nan, loader[2][1])
    combine = {"GradNorm": lambda: GradNorm("backbone.1.weight"), "UncertaintyWeights": UncertaintyWeights}[name]()
    state = copy.deepcopy(combine.state_dict())
    optimizer = torch.optim.SGD([*model.parameters(), *combine.parameters()], lr=0.1, momentum=0.9)
    with pytest.raises(FloatingPointError, match="after step 0"):
        list(fit(model, loader, optimizer, epochs=1, feature_loss=to_origin, combine=combine))
    for key, value in combine.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)


# --- clip, the best epoch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clip_limits_the_norm_of_the_gradient_of_the_whole_batch(micro, clip):
    model, (x, y) = plain_model(), batches()[0]
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    expected = [p.detach() - 0.1 * g * min(1, clip / norm) for p, g in zip(model.parameters(), gradients, strict=True)]
    next(fit(model, [(x, y)], sgd(model), epochs=1, clip=clip, micro_batch=micro))
    for p, e in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-5, atol=1e-7)
    for wrong_clip in (0, -1.0, math.nan, "1", True):
        with pytest.raises(ValueError, match="got clip="):
            fit(model, [(x, y)], sgd(model), epochs=1, clip=wrong_clip)


def test_the_best_epoch_is_in_the_model_at_the_end_and_patience_ends_the_run():
    from sftlib.training import History, best_epoch

    val = batches(1, n=11, seed=5)
    for measure, sign in (("accuracy", 1), ("loss", -1)):
        model, states = tiny_model(), []
        records = fit(model, batches(3), sgd(model, lr=0.7), epochs=9, val_loader=val)
        for record in best_epoch(records, model, measure=measure):
            if isinstance(record, Epoch):
                states.append((sign * record.val[measure], copy.deepcopy(model.state_dict())))
        best = max(range(9), key=lambda i: states[i][0])  # the first of equals
        assert best < 8, "a run whose last epoch is its best tries nothing"
        assert all(torch.equal(v, states[best][1][k]) for k, v in model.state_dict().items())
        model = plain_model()  # which stands still at rate 0
        records = fit(model, batches(3), sgd(model, lr=0.0), epochs=9, val_loader=val)
        history = History(best_epoch(records, model, measure=measure, patience=2))
        assert [e.epoch for e in history.epochs] == [1, 2, 3]
        assert len(history.steps) == 3 * len(history.epochs)
    with pytest.raises(ValueError, match="nothing: give fit a val_loader"):
        list(best_epoch(fit(model, batches(), sgd(model), epochs=1), model))
    for settings in ({"measure": "loss", "higher_is_better": True}, {"patience": 0}):
        with pytest.raises(ValueError, match="expected"):
            best_epoch([], model, **settings)
    for settings in ({"measure": "n"}, {"higher_is_better": False}):
        with pytest.raises(ValueError, match="expected its true direction"):
            list(best_epoch(fit(model, batches(), sgd(model), epochs=1, val_loader=val), model, **settings))


def test_another_model_or_optimizer_than_the_runs_is_refused_where_states_are_kept(tmp_path):
    from sftlib.training import best_epoch, save_checkpoint

    model, other = plain_model(), plain_model()
    optimizer = sgd(model)
    for record in fit(model, batches(2), optimizer, epochs=1):
        with pytest.raises(ValueError, match="another model"):
            save_checkpoint(tmp_path / "c.pt", other, optimizer, step=record)
        with pytest.raises(ValueError, match="another optimizer"):
            save_checkpoint(tmp_path / "c.pt", model, sgd(other), step=record)
        break
    assert not (tmp_path / "c.pt").exists()
    with pytest.raises(ValueError, match="another model"):
        list(best_epoch(fit(model, batches(), sgd(model), epochs=1, val_loader=batches()), other))
    with pytest.raises(ValueError, match="maximize"):
        fit(model, batches(), sgd(model, maximize=True), epochs=1)
