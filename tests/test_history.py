"""What a run leaves: all its records, their picture, the best of its epochs, and controls that hold what they say."""

import copy

import pytest
import torch
from helpers import K, N, batches, plain_model, tiny_model
from matplotlib.figure import Figure

from sftlib.metrics import MeanIoU
from sftlib.training import Controls, Epoch, History, Step, best_epoch, fit


class Errors:
    """Share of the labels that were missed: the less the better"""

    key, higher_is_better = "error_rate", False

    def __init__(self):
        self.missed = self.n = 0

    def add(self, output, y):
        self.missed, self.n = self.missed + int((output.argmax(1) != y).sum()), self.n + len(y)

    def values(self):
        return {"error_rate": self.missed / self.n}

    def state(self):
        return vars(self)

    def load(self, state):
        vars(self).update(state)

    def merge(self, other):
        self.missed, self.n = self.missed + other.missed, self.n + other.n


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def restless(model, epochs=9, **settings):
    """A run whose rate is far too large, so that its epochs differ"""
    settings = {"val_loader": batches(1, n=11, seed=5)} | settings
    return fit(model, batches(3), sgd(model, 0.7), epochs=epochs, **settings)


def followed(records, model, shown, **settings):
    """-> the measure after each epoch, and the state of the model then"""
    seen = [
        (record.val[shown], copy.deepcopy(model.state_dict()))
        for record in best_epoch(records, model, **settings) if isinstance(record, Epoch)
    ]  # fmt: skip
    return zip(*seen, strict=True)


def require_state(model, state):
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --- the best epoch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run, given",
    [
        ({"metric": Errors}, {}),  # the run's own measure and direction
        ({"metric": Errors}, {"measure": "error_rate"}),
        ({"metric": Errors}, {"measure": "error_rate", "higher_is_better": False}),
        ({}, {"measure": "loss"}),
        ({"metric": Errors}, {"measure": "loss"}),
    ],
)
def test_the_least_is_the_best_of_what_is_better_the_less_there_is(run, given):
    model = tiny_model()
    measure = given.get("measure", "error_rate")
    values, states = followed(restless(model, **run), model, measure, **given)
    best = min(range(9), key=values.__getitem__)  # the first of equals
    assert best < 8 and max(values) > values[best], "a run whose last epoch is its best tries nothing"
    require_state(model, states[best])


def test_the_most_is_the_best_of_accuracy():
    model = tiny_model()
    values, states = followed(restless(model), model, "accuracy")
    best = max(range(9), key=values.__getitem__)
    assert best < 8 and min(values) < values[best]
    require_state(model, states[best])


@pytest.mark.parametrize("higher, pick", [(True, max), (False, min)])
def test_the_direction_of_a_validation_of_ones_own_must_be_told(higher, pick):
    """A run without a measure cannot know whether the number that ``validate`` gives is one to make large."""
    numbers = (0.5, 0.3, 0.7, 0.7, 0.3)

    def run(model):
        left = iter(numbers)
        return fit(
            model, batches(3), sgd(model), epochs=5, metric=None, validate=lambda m: {"loss": 1.0, "ours": next(left)}
        )

    model = plain_model()
    with pytest.raises(ValueError, match="measure='ours', higher_is_better=None; expected its true direction"):
        list(best_epoch(run(model), model, measure="ours"))
    model = plain_model()
    with pytest.raises(ValueError, match="expected its true direction"):
        list(best_epoch(run(model), model))
    model = plain_model()
    values, states = followed(run(model), model, "ours", measure="ours", higher_is_better=higher)
    assert values == numbers
    require_state(model, states[numbers.index(pick(numbers))])


@pytest.mark.parametrize(
    "run, given, words",
    [
        ({"metric": Errors}, {"higher_is_better": True}, "'error_rate', higher_is_better=True; expected its true dir"),
        ({}, {"higher_is_better": False}, "'accuracy', higher_is_better=False; expected its true direction"),
        ({}, {"measure": "n"}, "measure='n', higher_is_better=None; expected its true direction"),
        ({}, {"measure": "error_rate"}, "got measure='error_rate', but epoch 1 was validated by loss, accuracy, n"),
        ({"val_loader": None}, {}, "epoch 1 was validated by nothing: give fit a val_loader"),
        ({"metric": None}, {}, "got measure=None, but epoch 1 was validated by loss, n"),
    ],
)
def test_what_an_epoch_cannot_be_judged_by_is_refused(run, given, words):
    model = tiny_model()
    with pytest.raises(ValueError, match=words):
        list(best_epoch(restless(model, **run), model, **given))


def test_a_measure_that_is_never_finite_chooses_no_epoch():
    model = plain_model()
    records = fit(model, batches(2), sgd(model), epochs=3, validate=lambda m: {"accuracy": float("nan")})
    with pytest.raises(ValueError, match="no epoch had a finite"):
        list(best_epoch(records, model))


@pytest.mark.parametrize("patience", [0, 1.5, True])
def test_patience_is_a_number_of_epochs(patience):
    with pytest.raises(ValueError, match="expected a whole number of at least 1: epochs"):
        best_epoch([], plain_model(), patience=patience)


def test_patience_counts_from_the_best_epoch():
    left = iter((0.3, 0.5, 0.5, 0.4, 0.9))
    model = plain_model()
    records = fit(model, batches(2), sgd(model), epochs=5, validate=lambda m: {"accuracy": next(left)})
    history = History(best_epoch(records, model, patience=2))
    assert [e.val["accuracy"] for e in history.epochs] == [0.3, 0.5, 0.5, 0.4]


# --- the history -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [Errors, None])
def test_a_history_keeps_every_record_and_draws_the_loss_and_the_runs_own_measure(metric):
    model = plain_model()
    history = History(fit(model, batches(3), sgd(model), epochs=2, metric=metric, val_loader=batches(1, seed=5)))
    assert [s.step for s in history.steps] == list(range(1, 7)) and [e.epoch for e in history.epochs] == [1, 2]
    assert all(isinstance(s, Step) for s in history.steps) and all(isinstance(e, Epoch) for e in history.epochs)
    axes = Figure().subplots(1, 2)
    assert history.plot(axes) is axes
    (loss,), scores = axes[0].get_lines(), axes[1].get_lines()
    assert list(loss.get_xdata()) == [1, 2, 3, 4, 5, 6] and list(loss.get_ydata()) == [s.loss for s in history.steps]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in scores}
    if metric is None:
        assert drawn == {} and axes[1].get_legend() is None
        return
    for name, values in (("train", "train"), ("validation", "val")):
        assert drawn.pop(name) == ([1, 2], [getattr(e, values)["error_rate"] for e in history.epochs])
    assert drawn == {} and len({line.get_linestyle() for line in scores}) == 2  # told apart without colour
    assert [ax.get_xlabel() for ax in axes] == ["step", "epoch"]
    assert [ax.get_ylabel() for ax in axes] == ["loss", "error rate"]


def test_a_history_that_ended_within_an_epoch_or_had_no_validation_is_drawn_too():
    model = plain_model()
    records = fit(model, batches(3), sgd(model), epochs=2)
    axes = Figure().subplots(1, 2)
    History(record for _, record in zip(range(2), records, strict=False)).plot(axes)
    assert len(axes[0].get_lines()) == 1 and not axes[1].get_lines()
    axes = Figure().subplots(1, 2)
    History(fit(model, batches(3), sgd(model), epochs=2)).plot(axes)
    assert [line.get_label() for line in axes[1].get_lines()] == ["train"]


def test_an_epoch_says_by_what_it_is_judged():
    def last(**settings):
        model = plain_model()
        *_, epoch = fit(model, batches(2), sgd(model), epochs=1, **settings)
        return epoch.key, epoch.higher_is_better

    assert last() == ("accuracy", True) and last(metric=Errors) == ("error_rate", False)
    assert MeanIoU(K).key == "mean_iou"
    assert last(metric=None, validate=lambda m: {"loss": 1.0, "n": N, "ours": 0.5}) == ("ours", None)
    assert last(metric=None)[0] is None


# --- the controls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rate", "feature_weight"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "0.1", [0.1]])
def test_controls_refuse_what_no_step_can_use_and_keep_what_they_had(name, value):
    controls = Controls(0.5, 3)
    with pytest.raises(ValueError, match=f"got {name}=.*; expected a finite number of at least 0"):
        setattr(controls, name, value)
    assert (controls.rate, controls.feature_weight) == (0.5, 3.0)
    with pytest.raises(ValueError, match=f"got {name}="):
        Controls(**{name: value})


def test_controls_refuse_a_rate_of_none_and_a_name_that_is_none():
    with pytest.raises(ValueError, match="got rate=None"):
        Controls(rate=None)
    assert Controls().feature_weight is None
    with pytest.raises(ValueError, match="got learning_rate="):
        Controls().learning_rate = "0.1"
    with pytest.raises(AttributeError):
        Controls().learning_rate = 0.1


def test_controls_hold_from_the_next_step_on_by_the_update_that_they_make():
    """One weight, whose gradient is known: w ← w − α · rate · 1"""
    model, controls = plain_model(), Controls()
    model.head.bias.requires_grad_(False)
    (weight,) = [model.head.weight]
    for p in model.backbone.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    before = weight.detach().clone()
    records = fit(
        model, batches(3), optimizer, epochs=1, controls=controls, task_loss=lambda output, y: weight.sum(),
        feature_loss=lambda z, y: weight.sum(), feature_weight=0.0, metric=None,
    )  # fmt: skip
    moved = []
    for rate, feature_weight in ((0.5, None), (0.5, 3.0), (1.0, None)):
        record = next(records)
        moved.append((before - weight).mean().item())
        before = weight.detach().clone()
        assert isinstance(record, Step)
        controls.rate, controls.feature_weight = rate, feature_weight
    assert moved == pytest.approx([0.1, 0.1 * 0.5, 0.1 * 0.5 * (1 + 3.0)], rel=1e-4)
