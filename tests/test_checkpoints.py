"""What a checkpoint refuses: files that are damaged, foreign or do not fit, and moments that are no place of a run."""

import copy
import functools
import random
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, N, TinyBackbone, batches, plain_model, tiny_model
from torch import nn

from sftlib.adaptation import freeze, param_groups
from sftlib.datasets import PictureSplit, loader
from sftlib.datasets.augment import flip
from sftlib.losses import CenterLoss
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision
from sftlib.training import Controls, Epoch, Step, evaluate, fit, load_checkpoint, save_checkpoint

PIXELS = {"size": (17, 3, 5, 5), "high": 256, "dtype": torch.uint8}


def pictures(seed=0, labels=1):
    content, order = (torch.Generator().manual_seed(s) for s in (seed, labels))
    return PictureSplit(
        torch.randint(**PIXELS, generator=content), torch.randint(K, (17,), generator=order), tuple(map(str, range(17)))
    )


def everything(seed=0, split=None):
    """-> model with dropout and BatchNorm, AdamW, a loader that shuffles and augments: 4 batches an epoch"""
    model = tiny_model(seed)
    data = loader(
        split or pictures(), lambda x: x.float() / 255, batch_size=5, shuffle=True, augment=flip,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return model, torch.optim.AdamW(model.parameters(), lr=0.01), data


def bits(*parts):
    """A copy of all that the parts hold"""
    return copy.deepcopy([part.state_dict() for part in parts])


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def draws():
    """What the global generators give next; they stay as they are"""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    drawn = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.set_rng_state(states[0]), random.setstate(states[1]), np.random.set_state(states[2])
    return drawn


def saved(path, *, place=6, parts=None, **settings):
    """A run of everything() that stopped after step ``place`` (or an epoch, as text) -> its parts"""
    parts = parts or everything()
    model, optimizer, data = parts
    for record in fit(model, data, optimizer, epochs=2, **settings):
        if isinstance(record, Step) and record.step == place:
            save_checkpoint(path, model, optimizer, step=record)
            break
        if isinstance(record, Epoch) and f"epoch {record.epoch}" == place:
            save_checkpoint(path, model, optimizer, epoch=record)
            break
    return parts


def changed(path, **entries):
    torch.save(torch.load(path, weights_only=True) | entries, path)
    return path


# --- the run goes on --------------------------------------------------------------------------------------------


class Shuffled:
    """A loader that draws its order from a generator, and knows nothing of checkpoints."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        (self.data,) = batches(1, n=N)

    def __len__(self):
        return 3

    def __iter__(self):
        order = torch.randperm(N, generator=self.generator)
        for part in order.split(5):
            yield self.data[0][part], self.data[1][part]


def test_a_run_resumed_after_an_epoch_ends_as_the_uninterrupted_one_to_the_bit(tmp_path):
    model = tiny_model()
    optimizer, data = torch.optim.AdamW(model.parameters(), lr=0.01), Shuffled(0)
    precision = Precision(torch.float32, True)
    for record in fit(model, data, optimizer, epochs=4, precision=precision):
        if isinstance(record, Epoch) and record.epoch == 2:
            path = save_checkpoint(tmp_path / "run" / "last.pt", model, optimizer, epoch=record, seed=7)
    expected = bits(model, optimizer)

    model, data = tiny_model(3), Shuffled(3)  # other weights, other order: all comes from the file
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    torch.manual_seed(99)
    found = load_checkpoint(path, model, optimizer)
    list(fit(model, data, optimizer, epochs=4, resume=found, precision=precision))
    assert same(bits(model, optimizer), expected)
    assert (found.epoch, found.seed, found.precision) == (2, 7, precision)
    assert found.versions["torch"] == torch.__version__


class Running:
    """A loss with state that is no module: a running mean of z, and how often it was called"""

    def __init__(self, seed=0):
        self.mean, self.calls = torch.full((D,), float(seed)), 0

    def __call__(self, z, y):
        self.mean, self.calls = 0.9 * self.mean + 0.1 * z.detach().mean(0), self.calls + 1
        return (z - self.mean).square().mean() / self.calls

    def as_method(self, z, y):
        return self(z, y)


class WithItsOwn(Running):
    def state_dict(self):
        return {"both": (self.mean, self.calls)}

    def load_state_dict(self, state):
        self.mean, self.calls = state["both"]


class Moving(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.register_buffer("mean", torch.full((D,), float(seed)))

    def forward(self, z, y):
        self.mean.mul_(0.9).add_(0.1 * z.detach().mean(0))
        return (z - self.mean.clone()).square().mean()


KINDS = {
    "module": Moving,
    "object": Running,
    "object that says its state": WithItsOwn,
    "method": lambda seed: Running(seed).as_method,
    "partial": lambda seed: functools.partial(Running(seed).as_method),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_with_state_of_any_kind_travels_along(tmp_path, kind):
    path, loss = tmp_path / "last.pt", KINDS[kind](0)
    model, optimizer, data = everything()
    for record in fit(model, data, optimizer, epochs=2, feature_loss=loss):
        if isinstance(record, Step) and record.step == 6:
            save_checkpoint(path, model, optimizer, step=record)
    expected = bits(model, optimizer)
    model, optimizer, data = everything(3)
    other = KINDS[kind](3)
    found = load_checkpoint(path, model, optimizer, feature_loss=other)
    list(fit(model, data, optimizer, epochs=2, feature_loss=other, resume=found))
    assert same(bits(model, optimizer), expected)


class Counting:
    """A task loss with state: how often it was called. Its value is that of cross-entropy."""

    def __init__(self):
        self.calls = 0

    def __call__(self, output, y):
        self.calls += 1
        return F.cross_entropy(output, y)

    def as_method(self, output, y):
        return self(output, y)


@pytest.mark.parametrize("form", [lambda loss: loss, lambda loss: loss.as_method, functools.partial])
def test_the_look_at_the_first_batch_does_not_move_a_loss_that_is_no_module(form):
    model, optimizer, data = everything()
    loss = Counting()
    list(fit(model, data, optimizer, epochs=2, task_loss=form(loss)))
    assert loss.calls == 8  # updates


def test_state_that_cannot_be_kept_is_named_when_it_is_saved(tmp_path):
    loss = Running()
    loss.seen = {3}
    with pytest.raises(ValueError, match=r"got a set in feature_loss\['seen'\].* make it an nn.Module with buffers"):
        saved(tmp_path / "last.pt", feature_loss=loss)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["task_loss", "feature_loss", "combine"])
def test_a_state_that_the_file_holds_must_be_taken_up(tmp_path, name):
    class Weigh(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((), 0.5))

        def forward(self, first, second):
            loss = F.cross_entropy(first, second) if name == "task_loss" else first[0] if name == "combine" else 0.0
            return loss + self.weight.square()

    functions = {"feature_loss": lambda z, y: z.square().mean()} | {name: Weigh()}
    path = tmp_path / "last.pt"
    model, optimizer, _ = saved(path, parts=with_parameters(everything(), functions[name]), **functions)
    before, weight = bits(model, optimizer), functions[name].weight.item()
    assert weight != 0.5
    with pytest.raises(ValueError, match=f"holds the state of a {name}, and the one given here has none.*pass {name}="):
        load_checkpoint(path, model, optimizer)
    saved(tmp_path / "none.pt", parts=(model, optimizer, everything()[2]))
    with pytest.raises(ValueError, match=f"holds no state of a {name}.* pass {name}=None to load_checkpoint"):
        load_checkpoint(tmp_path / "none.pt", model, optimizer, **{name: functions[name]})
    assert before[0].keys() == bits(model)[0].keys()
    functions[name].weight.data.fill_(0.5)
    load_checkpoint(path, model, optimizer, **{name: functions[name]})
    assert same(bits(model, optimizer), before) and functions[name].weight.item() == weight


def with_parameters(parts, loss):
    """The same, with an optimizer that holds the loss's parameters too"""
    model, _, data = parts
    return model, torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=0.01), data


def test_controls_that_nobody_touched_take_the_saved_rate_and_changed_ones_stay(tmp_path):
    path, controls = tmp_path / "last.pt", Controls(0.1, 3)
    model, optimizer, data = saved(path, controls=controls)
    for given, rate, weight in ((Controls(), 0.1, 3.0), (None, 0.1, 3.0), (Controls(0.5), 0.5, None)):
        found = load_checkpoint(path, model, optimizer)
        step = next(iter(fit(model, data, optimizer, epochs=2, controls=given, resume=found)))
        assert (step.lr, step.feature_weight) == (pytest.approx(0.01 * rate), 1.0 if weight is None else weight)
        assert given is None or (given.rate, given.feature_weight) == (rate, weight)


# --- moments that are no place of a run --------------------------------------------------------------------------


def interrupted(where):
    """A run that Ctrl-C ends in its step 6, at this point of it -> its parts, and its last record"""
    model, optimizer, data = everything()

    def strike(*_, result=None):
        if isinstance(record, Step) and record.step == 5:
            raise KeyboardInterrupt
        return result

    record, make, step, settings = None, data.make, optimizer.step, {}
    if where == "loader":
        data.make = replace(make, function=lambda x: strike(result=make.function(x)))
    if where == "loss":
        settings = {"task_loss": lambda z, y: strike(result=F.cross_entropy(z, y))}
    if where == "update":
        optimizer.step = lambda: strike(result=step())
    try:
        for record in fit(model, data, optimizer, epochs=2, **settings):
            if where == "loop":
                strike(record)
    except KeyboardInterrupt:
        pass
    data.make = make
    return (model, optimizer, data), record


@pytest.mark.parametrize("where", ["loader", "loss", "update"])
def test_a_run_that_was_interrupted_within_a_step_cannot_be_saved_as_if_it_were_between_two(where, tmp_path):
    (model, optimizer, _), record = interrupted(where)
    assert record.step == 5
    with pytest.raises(ValueError, match="stopped on its way from step 5 to the next.* save inside the loop"):
        save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_interrupted_between_two_steps_is_saved_and_goes_on_to_the_bit(tmp_path):
    parts = everything()
    list(fit(*reversed_order(parts), epochs=2))
    (model, optimizer, _), record = interrupted("loop")
    path = save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record)
    model, optimizer, data = everything(3)
    list(fit(model, data, optimizer, epochs=2, resume=load_checkpoint(path, model, optimizer)))
    assert same(bits(model, optimizer), bits(*parts[:2]))


def reversed_order(parts):
    model, optimizer, data = parts
    return model, data, optimizer


def peeked(model, data):
    next(iter(data))


def measured(model, data):
    evaluate(model, data)


@pytest.mark.filterwarnings("ignore:evaluate. the loader gives augmented")
@pytest.mark.parametrize("look", [peeked, measured])
@pytest.mark.parametrize("step", [1, 5, 6, 7, 8])
def test_a_loader_that_another_loop_has_used_within_the_epoch_is_refused(look, step, tmp_path):
    model, optimizer, data = everything()
    for record in fit(model, data, optimizer, epochs=2):
        if isinstance(record, Step) and record.step == step:
            look(model, data)
        if isinstance(record, Step) and step <= record.step <= -(-step // 4) * 4:  # to the end of the epoch
            with pytest.raises(ValueError, match="another loop has taken batches from the run's loader"):
                save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record)
    save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=record)


@pytest.mark.filterwarnings("ignore:evaluate. the loader gives augmented")
def test_a_loader_measured_between_two_epochs_goes_on_to_the_bit(tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer, data = everything()
    for record in fit(model, data, optimizer, epochs=2):
        if isinstance(record, Epoch):
            evaluate(model, data)
            if record.epoch == 1:
                save_checkpoint(path, model, optimizer, epoch=record)
    again, other, others = everything(3)
    for record in fit(again, others, other, epochs=2, resume=load_checkpoint(path, again, other)):
        if isinstance(record, Epoch):
            evaluate(again, others)
    assert same(bits(again, other, others), bits(model, optimizer, data))


def test_a_loader_left_within_another_pass_after_the_epoch_is_refused(tmp_path):
    model, optimizer, data = everything()
    *_, record = fit(model, data, optimizer, epochs=1)
    peeked(model, data)
    with pytest.raises(ValueError, match="another loop has taken batches"):
        save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=record)


@pytest.mark.parametrize("place", [6, "epoch 1"])
@pytest.mark.parametrize("other", [pictures(seed=5), pictures(labels=5), pictures().subset(torch.arange(17).flip(0))])
def test_other_pictures_of_the_same_number_are_refused(place, other, tmp_path):
    model, optimizer, _ = saved(tmp_path / "last.pt", place=place)
    found = load_checkpoint(tmp_path / "last.pt", model, optimizer)
    with pytest.raises(ValueError, match="got the place of a loader with data=.* of the same examples"):
        list(fit(model, everything(split=other)[2], optimizer, epochs=2, resume=found))
    list(fit(model, everything(split=pictures())[2], optimizer, epochs=2, resume=found))


def test_a_loader_of_another_kind_is_refused(tmp_path):
    model, optimizer, _ = saved(tmp_path / "last.pt", place="epoch 1")
    found = load_checkpoint(tmp_path / "last.pt", model, optimizer)
    with pytest.raises(ValueError, match="a run with another kind of loader than this list"):
        list(fit(model, batches(4), optimizer, epochs=2, resume=found))


# --- values that are not finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "spoil, name",
    [
        (lambda m, o, v: m.head.bias.data.fill_(v), "head.bias"),
        (lambda m, o, v: o.state[m.head.bias]["exp_avg"].fill_(v), "exp_avg of tensor 4"),
        (lambda m, o, v: m.backbone.norm.running_var.fill_(v), "backbone.norm.running_var"),
        (lambda m, o, v: o.param_groups[0].update(lr=v), "lr of the optimizer's group 0"),
    ],
)
def test_what_is_not_finite_is_never_written_unless_asked(value, spoil, name, tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer, data = saved(path)
    good = path.read_bytes()
    record = next(iter(fit(model, data, optimizer, epochs=1)))
    spoil(model, optimizer, value)
    if value == float("inf") and ("running" in name or "lr" in name):  # a mask may be infinite; no rate that trains
        return
    with pytest.raises(FloatingPointError, match=f"not finite: .*{name}"):
        save_checkpoint(path, model, optimizer, step=record)
    assert path.read_bytes() == good
    save_checkpoint(path, model, optimizer, step=record, allow_nonfinite=True)
    load_checkpoint(path, model, optimizer)


def test_a_loss_that_is_not_finite_is_not_written_either(tmp_path):
    centers = CenterLoss(K, D)
    parts = everything()
    record = next(iter(fit(*reversed_order(parts), epochs=1, feature_loss=centers, feature_weight=0.1)))
    centers.centers.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite: centers"):
        save_checkpoint(tmp_path / "last.pt", *parts[:2], step=record)


# --- files that do not fit ---------------------------------------------------------------------------------------


def test_files_that_do_not_fit_are_named_and_change_nothing(tmp_path):
    path = tmp_path / "last.pt"
    model, *_ = saved(path)
    other = Model(TinyBackbone(), LinearHead(D, K + 2))
    before = bits(other)
    with pytest.raises(ValueError, match="head.bias"):
        load_checkpoint(path, other, torch.optim.AdamW(other.parameters()))
    assert same(bits(other), before)
    freeze(model.backbone)
    with pytest.raises(ValueError, match=r"groups of \[5\] tensors, here are \[2\]"):
        load_checkpoint(path, model, torch.optim.AdamW(param_groups(g=(model.head, 0.1))))


def test_groups_with_names_are_taken_and_another_name_is_refused(tmp_path):
    def build(**names):
        model = tiny_model()
        groups = param_groups(**{names.get(k, k): (getattr(model, k), 0.1) for k in ("backbone", "head")})
        return model, torch.optim.SGD(groups, momentum=0.9), everything()[2]

    path = tmp_path / "last.pt"
    model, optimizer, _ = saved(path, parts=build())
    load_checkpoint(path, *build()[:2])
    with pytest.raises(ValueError, match=r"an optimizer group has no \['name'\] as here"):
        load_checkpoint(path, *build(head="g")[:2])


@pytest.mark.parametrize("other", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_another_optimizer_is_refused_before_anything_changes(other, tmp_path):
    saved(tmp_path / "last.pt")
    model = tiny_model(3)
    optimizer = other(model.parameters(), lr=0.1)
    before, drawn = bits(model, optimizer), draws()
    with pytest.raises(ValueError, match=f"holds the state of AdamW, here is {other.__name__}"):
        load_checkpoint(tmp_path / "last.pt", model, optimizer)
    assert same(bits(model, optimizer), before) and draws() == drawn
    with pytest.raises(ValueError, match="got None as optimizer; expected the run's"):
        load_checkpoint(tmp_path / "last.pt", model, None)


@pytest.mark.parametrize("wrapper, by", [("module", "DataParallel"), ("_orig_mod", "torch.compile")])
def test_the_names_of_a_wrapper_are_told(wrapper, by, tmp_path):
    model, optimizer, _ = saved(tmp_path / "last.pt")
    wrapped = nn.Module()
    wrapped.add_module(wrapper, model)
    with pytest.raises(ValueError, match=rf"differ by '{wrapper}' \(of {by}.*\) alone: save and load the"):
        load_checkpoint(tmp_path / "last.pt", wrapped, optimizer)
    inside = Model(nn.Sequential(), model.head)
    inside.backbone.add_module(wrapper, model.backbone)
    with pytest.raises(ValueError, match=f"differ by '{wrapper}'"):
        load_checkpoint(tmp_path / "last.pt", inside, optimizer)


def test_foreign_other_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer, _ = saved(path)
    for number in (3, 99):
        with pytest.raises(ValueError, match=f"format {number}, this version reads and writes 4"):
            load_checkpoint(changed(path, format=number), model, optimizer)
    torch.save(plain_model().state_dict(), tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        load_checkpoint(tmp_path / "foreign.pt", model, optimizer)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path, model, optimizer)


FREE = ("settings", "versions", "cuda", "precision")  # nothing needs their entries, or they are looked at elsewhere


def places(thing, *above):
    """Every path to an entry of a nest of dicts and lists"""
    entries = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list | tuple) else ()
    for key, inner in entries:
        yield (*above, key)
        if key not in FREE and len(above) < 5 and not (isinstance(inner, list) and len(inner) > 99):
            yield from places(inner, *above, key)


def without(thing, place):
    """The same nest with a wrong entry, or none, at this place"""
    key, *rest = place
    entries = dict(thing) if isinstance(thing, dict) else list(thing)
    if rest:
        entries[key] = without(thing[key], rest)
    elif isinstance(entries, dict):
        del entries[key]
    else:
        entries[key] = {"of another": "kind"}
    return type(thing)(entries) if isinstance(thing, tuple) else entries


@pytest.mark.parametrize("stateful", [True, False])
def test_a_crafted_file_without_any_one_of_its_entries_is_refused_before_anything_changes(stateful, tmp_path):
    """A run that is told that all fits must go on; else nothing has changed, generators included."""
    path, loss = tmp_path / "last.pt", CenterLoss(K, D)
    model, optimizer, data = everything()
    data = data if stateful else batches(4)
    saved(path, parts=(model, optimizer, data), feature_loss=loss)
    whole = torch.load(path, weights_only=True)
    model, loss = tiny_model(3), CenterLoss(K, D)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    start, drawn, refused, taken = bits(model, optimizer, loss), draws(), [], []
    for place in list(places(whole)):
        torch.save(without(whole, place), path)
        try:
            found = load_checkpoint(path, model, optimizer, feature_loss=loss, exact=False)
        except ValueError as error:
            assert str(path) in str(error)
            assert same(bits(model, optimizer, loss), start) and draws() == drawn, place
            refused.append(place)
            continue
        taken.append(place)
        try:
            data = everything()[2] if stateful else batches(4)
            list(fit(model, data, optimizer, epochs=2, feature_loss=loss, resume=found))
        except ValueError:
            assert place[:2] == ("progress", "loader") or place[:3] == ("progress", "measures", "accuracy"), place
        model, loss = tiny_model(3), CenterLoss(K, D)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        loss.load_state_dict(start[2]), torch.manual_seed(3)
        start, drawn = bits(model, optimizer, loss), draws()
    assert len(refused) > 70 and len(taken) < 30, taken


@pytest.mark.parametrize("wrong", [None, 3, [], "text", torch.zeros(2), {}])
def test_entries_of_another_kind_are_refused_too(wrong, tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer, _ = saved(path)
    whole, before = torch.load(path, weights_only=True), bits(model, optimizer)
    for name, value in whole.items():
        if type(value) is type(wrong) or (name == "seed" and type(wrong) is int):
            continue
        with pytest.raises(ValueError, match="last.pt"):
            load_checkpoint(changed(path, **{name: wrong}), model, optimizer)
        assert same(bits(model, optimizer), before)
        torch.save(whole, path)


def test_a_measure_that_lacks_one_of_its_sums_does_not_go_on(tmp_path):
    """Without the hits of the steps before, the accuracy of the epoch would be wrong without a word."""
    path = tmp_path / "last.pt"
    saved(path)
    whole = torch.load(path, weights_only=True)
    for name in whole["progress"]["measures"]["accuracy"]:
        torch.save(without(whole, ("progress", "measures", "accuracy", name)), path)
        model, optimizer, data = everything()
        found = load_checkpoint(path, model, optimizer)
        with pytest.raises(ValueError, match=f"'{name}'.* to add; expected the same: its state is of another measure"):
            list(fit(model, data, optimizer, epochs=2, resume=found))


def test_an_error_of_the_last_moment_leaves_all_as_it_was(tmp_path):
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.asked = nn.Parameter(torch.zeros(())), False

        def forward(self, z, y):
            return z.square().mean() + self.weight

        def get_extra_state(self):
            return 3

        def set_extra_state(self, state):
            if not self.asked:
                self.asked = True
                raise RuntimeError("not today")

    loss = Picky()
    saved(tmp_path / "last.pt", parts=with_parameters(everything(), loss), feature_loss=loss)
    loss = Picky()
    model, optimizer, _ = with_parameters(everything(3), loss)
    before, drawn = bits(model, optimizer), draws()
    with pytest.raises(ValueError, match="not today.* nothing was changed"):
        load_checkpoint(tmp_path / "last.pt", model, optimizer, feature_loss=loss)
    assert same(bits(model, optimizer), before) and draws() == drawn


# --- damage ------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    path, flips = tmp_path / "last.pt", random.Random(13)
    saved(path)
    whole = path.read_bytes()
    expected = torch.load(path, weights_only=True)
    model, optimizer, _ = everything()
    refused = 0
    tail = range(8 * (len(whole) - 6000), 8 * len(whole))  # the directory, whose fields torch and zipfile read apart
    for bit in [*(flips.randrange(8 * len(whole)) for _ in range(200)), *flips.sample(tail, 400)]:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            load_checkpoint(path, model, optimizer)
        except ValueError:
            refused += 1
        else:
            assert same(torch.load(path, weights_only=True), expected), bit
    assert refused > 200


def test_compressed_and_overlapping_entries_are_refused(tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer, _ = saved(path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(ValueError, match="cannot be read") as error:
        load_checkpoint(tmp_path / "bomb.pt", model, optimizer)
    assert "compressed" in str(error.value.__cause__)


FULL = """
    import resource, sys
    from pathlib import Path
    import torch
    from helpers import batches, plain_model
    from sftlib.training import save_checkpoint
    from sftlib.model import save_parts
    from sftlib.training import fit

    folder = Path(sys.argv[1])
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for record in fit(model, batches(2), optimizer, epochs=1):
        for save in (
            lambda: save_checkpoint(folder / "last.pt", model, optimizer, **{type(record).__name__.lower(): record}),
            lambda: save_parts(model, folder),
        ):
            try:
                save()
            except OSError as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file there")
@pytest.mark.parametrize("room", [0, 1000, 3000])
def test_a_full_disk_is_said_in_plain_words_and_the_old_file_stays(room, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=__file__.rsplit("/", 1)[0])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and "inline_container" not in done.stdout, done.stdout + done.stderr
    assert all("does not take the file (File too large); what was there before is as it was" in line for line in lines)
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert load_checkpoint(tmp_path / "last.pt", model, optimizer, exact=False).progress["batch"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.pt", "head.pt", "last.pt"]


def test_a_link_in_the_place_of_a_checkpoint_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "last.pt"
    link.symlink_to(tmp_path / "disk" / "run.pt")
    for place in (6, 7):
        model, optimizer, _ = saved(link, place=place)
        assert link.is_symlink() and load_checkpoint(link, model, optimizer).progress["batch"] == place - 4
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["run.pt"]


def test_groups_with_names_go_on_and_those_of_another_name_are_refused(tmp_path):
    model = Model(nn.Linear(5, 3), LinearHead(3, 2))
    optimizer = torch.optim.SGD(param_groups(f=(model.backbone, 0.1), g=(model.head, 0.2)))
    *_, last = fit(model, [(torch.randn(7, 5), torch.arange(7) % 2)], optimizer, epochs=1)
    save_checkpoint(tmp_path / "named.pt", model, optimizer, epoch=last)
    assert load_checkpoint(tmp_path / "named.pt", model, optimizer).epoch == 1
    optimizer.param_groups[0]["name"] = "trunk"
    with pytest.raises(ValueError, match=r"no \['name'\] as here"):
        load_checkpoint(tmp_path / "named.pt", model, optimizer)
