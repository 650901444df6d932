"""A run that was stopped at any moment and resumed ends, to the bit, as the one that never was."""

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import N, batches, plain_model, tiny_model
from killed_run import BATCHES, EPOCHS, everything, records, resumed

from sftlib.features import Cached
from sftlib.losses import RandomWeights
from sftlib.runtime import Precision
from sftlib.training import Controls, Epoch, Step, fit, load_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(thing):
    """Every tensor and number in a nest of dicts and lists, in order"""
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list | tuple):
        return [t for inner in thing for t in tensors(inner)]
    return [thing]


def require_same(parts, others):
    for part, other in zip(parts, others, strict=True):
        for a, b in zip(tensors(part.state_dict()), tensors(other.state_dict()), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def finished(parts, going):
    return parts, [r for r in going if isinstance(r, Epoch)]


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    parts = everything()
    return finished(parts, records(*parts))


def killed_when(path, line_wanted, *mode):
    """Start the run in another process and kill it as soon as it says so."""
    command = [sys.executable, str(Path(__file__).with_name("killed_run.py")), str(path), *mode]
    with open(path.parent.with_suffix(".errors"), "w+", encoding="utf-8") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, text=True, **pipes) as child:
            reached = any(line.strip() == line_wanted for line in child.stdout)
            child.kill()  # SIGKILL: nothing is tidied up
        errors.seek(0)
        assert reached and child.returncode != 0, errors.read()


def test_killed_at_a_random_moment_and_again_while_writing_the_run_ends_to_the_bit_as_the_uninterrupted(
    tmp_path, uninterrupted
):
    path = tmp_path / "run" / "last.pt"
    killed_when(path, str(random.randint(1, BATCHES)))
    before = torch.load(path, weights_only=True)
    killed_when(path, "half", "half")
    (leftover,) = path.parent.glob("*.partial")
    after = torch.load(path, weights_only=True)  # of the fourth write: whole
    assert after["epoch"] * BATCHES + after["progress"]["batch"] == (
        before["epoch"] * BATCHES + before["progress"]["batch"] + 4
    )
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(leftover, *everything()[:2])
    parts, epochs = finished(*resumed(path))
    require_same(parts, uninterrupted[0])
    assert epochs == uninterrupted[1][-len(epochs) :] and len(epochs) >= EPOCHS - 1


@pytest.mark.parametrize("stop", [1, BATCHES - 1, BATCHES, 2 * BATCHES + 1, EPOCHS * BATCHES])
def test_stopped_at_any_place_of_an_epoch_its_first_and_last_step_included(stop, tmp_path, uninterrupted):
    model, optimizer, *rest = everything()
    for record in records(model, optimizer, *rest):
        if isinstance(record, Step) and record.step == stop:
            path = save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record)
            break
    torch.manual_seed(99)
    (*parts,), going = resumed(path)
    torch.manual_seed(98)  # what is drawn between loading and training is no matter
    going = list(going)
    require_same(parts, uninterrupted[0])
    assert [r for r in going if isinstance(r, Epoch)] == uninterrupted[1][(stop - 1) // BATCHES :]
    assert [r.step for r in going if isinstance(r, Step)] == list(range(stop + 1, EPOCHS * BATCHES + 1))


def test_stopped_between_two_epochs_nothing_but_the_record_is_needed(tmp_path, uninterrupted):
    model, optimizer, *rest = everything()
    for record in records(model, optimizer, *rest):
        if isinstance(record, Epoch):
            path = save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=record)
            break
    parts, going = resumed(path)
    torch.manual_seed(98)
    _, epochs = finished(parts, going)
    require_same(parts, uninterrupted[0])
    assert epochs == uninterrupted[1][1:]


class WithoutGenerator:
    """A loader that draws from torch's global generator and knows nothing of checkpoints"""

    def __init__(self):
        (self.data,) = batches(1, n=N)

    def __len__(self):
        return 3

    def __iter__(self):
        for rows in torch.randperm(N).split(5):
            yield self.data[0][rows], self.data[1][rows]


def cached():
    (x, y) = batches(1, n=N)[0]
    return Cached(features=x, labels=y, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3))


def data_loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batches(1, n=N)[0]), batch_size=5, shuffle=True)


class Drawn(torch.utils.data.Sampler):
    """A sampler that draws from a generator of its own, whose kind torch does not know"""

    def __init__(self, generator):
        self.own = generator

    def __len__(self):
        return N

    def __iter__(self):
        if isinstance(self.own, random.Random):
            return iter(self.own.sample(range(N), N))
        return iter(self.own.permutation(N).tolist())


def with_sampler(sampler):
    data = torch.utils.data.TensorDataset(*batches(1, n=N)[0])
    return torch.utils.data.DataLoader(data, batch_size=5, sampler=sampler)


SAMPLERS = [
    lambda: with_sampler(torch.utils.data.RandomSampler(range(N), generator=torch.Generator().manual_seed(5))),
    lambda: with_sampler(Drawn(np.random.default_rng(5))),
    lambda: with_sampler(Drawn(random.Random(5))),
]


@pytest.mark.parametrize("make", [lambda: batches(3), cached, WithoutGenerator, data_loader, *SAMPLERS])
@pytest.mark.parametrize("stop", [5, 3])  # within an epoch, and between two
def test_any_loader_that_repeats_its_order_can_be_resumed(stop, make, tmp_path):
    def build():
        model, combine = tiny_model(), RandomWeights(torch.Generator().manual_seed(2))
        torch.manual_seed(11)
        settings = {"epochs": 2, "combine": combine, "feature_loss": lambda z, y: z.square().mean()}
        return make(), torch.optim.Adam(model.parameters(), 0.01), model, settings

    loader, optimizer, model, settings = build()
    for record in fit(model, loader, optimizer, **settings):
        if stop == 5 and isinstance(record, Step) and record.step == stop:
            path = save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record)
        if stop == 3 and isinstance(record, Epoch) and record.epoch == 1:
            path = save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=record)
    again, other_optimizer, other, settings = build()
    torch.manual_seed(12)
    found = load_checkpoint(path, other, other_optimizer, combine=settings["combine"])
    rest = list(fit(other, again, other_optimizer, resume=found, **settings))
    assert [r.step for r in rest if isinstance(r, Step)] == list(range(stop + 1, 7)) and rest[-1].train == record.train
    require_same((other, other_optimizer), (model, optimizer))


def test_a_loader_that_does_not_repeat_its_order_is_refused(tmp_path):
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = next(iter(fit(model, batches(3), optimizer, epochs=1)))
    path = save_checkpoint(tmp_path / "last.pt", model, optimizer, step=step)
    found = load_checkpoint(path, model, optimizer)
    with pytest.raises(ValueError, match="a list, did not repeat the order"):
        list(fit(model, batches(3, seed=4), optimizer, epochs=1, resume=found))


def test_a_loader_of_another_length_is_refused(tmp_path):
    model, optimizer = saved(tmp_path / "last.pt")
    found = load_checkpoint(tmp_path / "last.pt", model, optimizer)
    with pytest.raises(ValueError, match="a checkpoint of 3 batches an epoch and a loader of 5"):
        list(fit(model, batches(5), optimizer, epochs=2, resume=found))


def test_controls_and_settings_come_back_and_the_rate_stays_as_it_was_set(tmp_path):
    model, controls = plain_model(), Controls()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for record in fit(model, batches(3), optimizer, epochs=2, controls=controls):
        controls.rate, controls.feature_weight = 0.5, 3
        if isinstance(record, Step) and record.step == 2:
            path = save_checkpoint(
                tmp_path / "last.pt", model, optimizer, step=record, seed=7, settings={"lr": 0.1, "names": ["a"]}
            )
            break
    found = load_checkpoint(path, model, optimizer)
    assert (found.controls, found.settings, found.seed) == (Controls(0.5, 3.0), {"lr": 0.1, "names": ["a"]}, 7)
    step = next(iter(fit(model, batches(3), optimizer, epochs=2, resume=found)))
    assert (step.step, step.lr, step.feature_weight) == (3, 0.05, 3.0)


def saved(path, **changes):
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = next(iter(fit(model, batches(3), optimizer, epochs=2)))
    save_checkpoint(path, model, optimizer, step=step)
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return model, optimizer


def test_other_versions_and_threads_are_named_and_can_be_accepted(tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer = saved(path)
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="another environment: threads 1 there and 2 here.* exact=False"):
        load_checkpoint(path, model, optimizer)
    assert load_checkpoint(path, model, optimizer, exact=False).versions["threads"] == 1


def test_another_number_format_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    model, optimizer = saved(path)
    with pytest.raises(ValueError, match="is torch.float32 there and torch.float64 here"):
        load_checkpoint(path, model.double(), optimizer)
    model.float()
    found = load_checkpoint(path, model, optimizer)
    with pytest.raises(ValueError, match="precision=bfloat16.* in float32"):
        fit(model, batches(3), optimizer, epochs=2, resume=found, precision=Precision(torch.bfloat16))


def test_a_run_that_has_done_all_its_epochs_says_that_nothing_is_left(tmp_path):
    path, model = tmp_path / "last.pt", plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for record in fit(model, batches(2), optimizer, epochs=2):
        if isinstance(record, Epoch):
            save_checkpoint(path, model, optimizer, epoch=record)
    found = load_checkpoint(path, model, optimizer)
    with pytest.raises(ValueError, match="epochs=2 and a checkpoint of a run that has done 2, so nothing is left"):
        fit(model, batches(2), optimizer, epochs=2, resume=found)
    assert [r.epoch for r in fit(model, batches(2), optimizer, epochs=3, resume=found) if isinstance(r, Epoch)] == [3]


def test_only_the_present_step_can_be_saved_and_only_plain_values(tmp_path):
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first, second, third, epoch = fit(model, batches(3), optimizer, epochs=1)
    for wrong in ({"step": first}, {"step": third}, {"epoch": dataclasses.replace(epoch, epoch=0)}):
        with pytest.raises(ValueError, match="got the record of .*, but the run has gone on"):
            save_checkpoint(tmp_path / "last.pt", model, optimizer, **wrong)
    with pytest.raises(ValueError, match="got a str; expected a record"):
        save_checkpoint(tmp_path / "last.pt", model, optimizer, step="last")
    for wrong in ({}, {"step": second, "epoch": epoch}):
        with pytest.raises(ValueError, match="one of step=record.* and epoch=record"):
            save_checkpoint(tmp_path / "last.pt", model, optimizer, **wrong)
    with pytest.raises(ValueError, match=r"got a set in settings\['a'\]"):
        save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=epoch, settings={"a": {1}})
    assert not list(tmp_path.iterdir())


def test_a_rate_from_a_numpy_schedule_can_be_saved_and_loaded(tmp_path):
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = next(iter(fit(model, batches(3), optimizer, epochs=1, schedule=lambda step: np.cos(step))))
    path = save_checkpoint(tmp_path / "last.pt", model, optimizer, step=step)
    load_checkpoint(path, model, optimizer)
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_what_a_killed_process_left_is_removed_once_a_later_checkpoint_is_whole(tmp_path):
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    leftover = tmp_path / "last.pt.123.partial"
    leftover.write_bytes(b"half")
    os.utime(leftover, (1, 1))
    for record in fit(model, batches(2), optimizer, epochs=1):
        if isinstance(record, Step):
            save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record)
            assert leftover.exists() is (record.step == 1)
