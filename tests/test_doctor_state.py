"""The doctor changes nothing: everything that a look could move is compared before and after."""

import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doctor_step_cases import CASES, mixed
from kinds import KINDS
from test_doctor_kinds import sound
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sftlib.datasets import NestSplit, nest_loader
from sftlib.doctor import diagnose
from sftlib.doctor.keep import kept

pytestmark = pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")


def numbers(t):
    return None if t is None else (id(t), t.dtype, tuple(t.shape), t.detach().contiguous().view(-1).tolist().__repr__())


def of_module(module):
    """Parameters, gradients, buffers, modes, hooks and every plain attribute, with their identities"""
    found = [(n, numbers(p), numbers(p.grad), p.requires_grad) for n, p in module.named_parameters()]
    found += [(n, numbers(b)) for n, b in module.named_buffers()]
    for name, m in module.named_modules():
        found.append((name, id(m), m.training, sorted(m.__dict__)))
        found.append((len(m._forward_hooks), len(m._forward_pre_hooks), id(m.__dict__.get("train"))))
        found.append([(k, v) for k, v in m.__dict__.items() if isinstance(v, (int, float, str))])
    return found


def of_optimizer(optimizer):
    state = [(id(p), sorted((k, str(v)) for k, v in held.items())) for p, held in optimizer.state.items()]
    groups = [[(k, v) for k, v in group.items() if k != "params"] for group in optimizer.param_groups]
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    hooks = len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    return state, str(groups), held, hooks


def of_loader(loader):
    found = [sorted(getattr(loader, "__dict__", {}))]
    for part in (loader, getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, torch.Generator):
                found.append((name, value.get_state().tolist()))
            elif isinstance(value, np.random.Generator):
                found.append((name, str(value.bit_generator.state)))
            elif isinstance(value, (int, float, str)):
                found.append((name, value))
    if hasattr(loader, "place"):
        found.append((loader.place.given, loader.place.began, loader.place.resumed))
    return found


def of_torch():
    hooks = torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks
    scaler, autocast = torch.amp.GradScaler, torch.amp.autocast_mode.autocast
    calls = [scaler.scale, scaler.unscale_, scaler.step, scaler.update, autocast.__enter__, F.cross_entropy]
    return [len(h) for h in hooks], calls, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")


def of_random():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def everything(given):
    found = {"torch": of_torch(), "random": of_random()}
    for name, value in given.items():
        if isinstance(value, nn.Module):
            found[name] = of_module(value)
        elif isinstance(value, torch.optim.Optimizer):
            found[name] = of_optimizer(value)
        elif name.endswith("loader"):
            found[name] = of_loader(value)
    return found


@pytest.mark.parametrize("code", CASES)
def test_no_set_up_is_changed(code):
    for make in CASES[code]:
        given = make()
        before = everything(given)
        diagnose(**given)
        after = everything(given)
        for name, value in before.items():
            assert after[name] == value, name


@pytest.mark.parametrize("name", KINDS)
def test_no_kind_is_changed_in_the_middle_of_a_run(name):
    """With momentum, gradients, a place within an epoch: the batches that follow are those that would have"""
    ends = []
    for looked in (False, True):
        given = sound(name)
        model, optimizer, loader = given["model"], given["optimizer"], given["train_loader"]
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        torch.manual_seed(11)
        stream = iter(loader)
        next(stream)
        if looked:
            before = everything(given)
            diagnose(**given)
            assert everything(given) == before
        rest = list(stream)
        ends.append((str(rest), str(list(loader)), torch.rand(3).tolist()))
        assert model.training == given["model"].training
    assert ends[0] == ends[1]


def test_what_a_step_reads_from_outside_is_put_back():
    given = mixed(torch.float16, scaled=True, clip="after")
    model, optimizer = given["model"], given["optimizer"]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    ema = torch.optim.swa_utils.AveragedModel(model)
    history, count, inner, rng = [], 0, given["step"], np.random.default_rng(3)

    def step(x, y):
        nonlocal count
        inner(x, y)
        count += 1
        history.append(float(rng.normal()))
        ema.update_parameters(model)
        scheduler.step()

    scaler = next(c.cell_contents for c in inner.__closure__ if isinstance(c.cell_contents, torch.amp.GradScaler))
    before = (everything(given), of_module(ema), str(scheduler.state_dict()), scaler.state_dict(),
              str(rng.bit_generator.state))  # fmt: skip
    diagnose(**given | {"step": step})
    after = (everything(given), of_module(ema), str(scheduler.state_dict()), scaler.state_dict(),
             str(rng.bit_generator.state))  # fmt: skip
    assert after == before and history == [] and count == 0


COUNT = 0


def test_a_global_that_a_step_writes_is_put_back():
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    optimizer = SGD(model.parameters(), lr=0.1)

    def step():
        global COUNT
        COUNT += 1
        model(x).sum().backward()

    diagnose(model, optimizer, step=step)
    assert COUNT == 0


def test_a_step_that_replaces_parts_and_fails_is_put_back():
    model, x = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5)), torch.randn(7, 3)
    optimizer = Adam(model.parameters(), lr=0.1)

    def step():
        model[0].weight.data = model[0].weight.data.half()
        model[0].requires_grad_(False)
        model.eval()
        model.new = 3
        optimizer.param_groups[0]["lr"] = 7.0
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
        raise RuntimeError("no")

    given = {"model": model, "optimizer": optimizer, "x": x}
    before = everything(given)
    found = diagnose(model, optimizer, step=step)
    assert "step_fails" in found.codes and everything(given) == before


def test_an_interrupt_within_a_step_leaves_nothing_behind():
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    given = {"model": model, "optimizer": SGD(model.parameters(), lr=0.1)}

    def step():
        model(x).sum().backward()
        raise KeyboardInterrupt

    before = everything(given)
    with pytest.raises(KeyboardInterrupt):
        diagnose(**given, step=step)
    assert everything(given) == before


def test_the_walk_ends_in_a_circle_and_puts_containers_back():
    class Holder:
        __slots__ = ("value", "me")

    holder = Holder()
    holder.value, holder.me = [1, {2, 3}, {"a": 5}], holder
    with kept(functions=(lambda: holder,)):
        holder.value[1].add(7)
        holder.value[2]["b"] = 11
        holder.value.append(13)
        holder.me = None
    assert holder.value == [1, {2, 3}, {"a": 5}] and holder.me is holder


def test_a_loader_that_gives_its_batches_once_is_not_used_up():
    model = nn.Linear(3, 2)
    batches = iter([(torch.randn(5, 3), torch.zeros(5).long())] * 3)
    found = diagnose(model, SGD(model.parameters(), lr=0.1), train_loader=batches)
    assert len(list(batches)) == 3 and any("only once" in words for words in found.not_looked_at)


def test_a_stream_that_can_be_begun_again_is_looked_at():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.full((3,), float(i)), i % 2) for i in range(17)])

    model = nn.Linear(3, 2)
    loader = DataLoader(Stream(), batch_size=5)
    found = diagnose(model, SGD(model.parameters(), lr=0.01), train_loader=loader)
    assert not any("train_loader:" in words for words in found.not_looked_at)
    assert [int(x[0, 0]) for x, _ in loader] == [0, 5, 10, 15]


def test_workers_are_not_started():
    model = nn.Linear(3, 2)
    data = TensorDataset(torch.randn(17, 3), torch.arange(17) % 2)
    loader = DataLoader(data, batch_size=5, num_workers=2, persistent_workers=True, generator=torch.Generator())
    diagnose(model, SGD(model.parameters(), lr=0.01), train_loader=loader, val_loader=loader)
    assert loader._iterator is None


def test_the_order_of_a_sampler_that_counts_epochs_stays():
    class Sampler(torch.utils.data.Sampler):
        def __init__(self):
            self.epochs = 0

        def __iter__(self):
            self.epochs += 1
            return itertools.islice(iter(range(17)), 17)

        def __len__(self):
            return 17

    model, sampler = nn.Linear(3, 2), Sampler()
    data = TensorDataset(torch.randn(17, 3), torch.arange(17) % 2)
    diagnose(model, SGD(model.parameters(), lr=0.01), train_loader=DataLoader(data, batch_size=5, sampler=sampler))
    assert sampler.epochs == 0


def test_splits_of_nests_are_walked_without_a_copy_of_their_numbers():
    split = NestSplit(torch.randn(13, 3), torch.arange(13) % 2)
    model = nn.Linear(3, 2)
    x = split.x.clone()
    diagnose(model, SGD(model.parameters(), lr=0.01), train_loader=nest_loader(split, batch_size=5))
    assert torch.equal(split.x, x)
