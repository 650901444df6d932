"""Checkers of notebook 09: five set-ups that were mended. Each is measured, and the doctor looks at it too."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from sftlib.checks import Wrong, checker, expect, require
from sftlib.checks.set_ups import (
    END,
    Centres,
    Cut,
    Talker,
    after_steps,
    blobs,
    draw,
    faulty_shares,
    faulty_steps,
    learned,
    mislabelled,
    network,
    share_right,
)
from sftlib.doctor import diagnose


def _sound(what: str, model, optimizer, **given) -> None:
    """Wrong with the doctor's words where it finds a mistake"""
    found = diagnose(model, optimizer, **given).mistakes
    require(not found, f"{what}: the doctor still finds " + "; ".join(f"{f.code} ({f.message})" for f in found))


# ------------------------------------------------------------------------------------------------------------ batches


@checker("09.batches")
def _batches(answer):
    """x (N, D) in the order of the classes, y (N,) from 1 to K -> batches of 8 that K outputs learn from"""
    for n, K, seed in ((33, 3, 0), (41, 2, 1), (47, 5, 2)):
        x, y = blobs(n, K, seed)
        loader, what = answer(x.clone(), y.clone()), f"{n} examples of {K} classes"
        require(isinstance(loader, DataLoader), f"got a {type(loader).__name__}; expected a DataLoader")
        orders = [_order(loader, x, y, what) for _ in range(12)]
        model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, K))
        _sound(what, model, torch.optim.SGD(model.parameters(), lr=0.05), train_loader=loader)
        require(orders[0] != orders[1], f"{what}: two epochs have one order; shuffle anew in each")
        never = len(y) - len(set().union(*orders))
        require(not never, f"{what}: {never} of them come in no epoch; leave out others in each, as drop_last does")
        share = learned(loader, x, y - 1, K)
        require(share > 0.8, f"{what}: a network trained on them for 20 epochs is right for {share:.2f} only")


def _order(loader, x, y, what: str) -> list[int]:
    """The rows of an epoch, in order; Wrong where labels do not fit, or rows are missing or come twice"""
    rows = []
    for batch in loader:
        require(isinstance(batch, (list, tuple)) and len(batch) == 2, f"{what}: a batch is no pair (x, y)")
        given, labels = batch
        require(given.ndim == 2 and len(given) == len(labels), f"{what}: x of {tuple(given.shape)} in a batch")
        require(len(given) <= 8, f"{what}: a batch of {len(given)}; expected 8 at most")
        found = torch.cdist(given.double(), x.double()).min(1)
        require(bool((found.values < 1e-5).all()), f"{what}: a batch holds an x that was not given")
        here = found.indices
        if torch.equal(labels, y[here]):
            raise Wrong(f"{what}: labels still count from 1 (the doctor: labels_start_at_1)")
        require(torch.equal(labels, y[here] - 1), f"{what}: labels do not belong to their examples any more")
        rows += here.tolist()
    require(len(set(rows)) == len(rows), f"{what}: some examples come twice in an epoch, others not at all")
    require(len(rows) > len(y) - 8, f"{what}: only {len(rows)} of them come in an epoch")
    return rows


# ---------------------------------------------------------------------------------------------------------- optimizer


@checker("09.optimizer", changes=(0,))
def _optimizer(answer):
    """model (.f frozen, .head), a loss with parameters, lr -> the optimizer of all: f at lr / 10"""
    for K, lr, seed in ((3, 0.1, 0), (2, 0.03, 1)):
        torch.manual_seed(seed)
        model, loss, what = Cut(K), Centres(K, 11), f"lr={lr:g}"
        model.f.requires_grad_(False)
        given = [(p, p.detach().clone()) for p in (*model.parameters(), *loss.parameters())]
        optimizer = answer(model, loss, lr)
        require(isinstance(optimizer, torch.optim.Optimizer), f"got a {type(optimizer).__name__}, no optimizer")
        _kept(what, given, (*model.parameters(), *loss.parameters()))
        x, y = torch.randn(13, 5), torch.arange(13) % K
        batches = [(x, y)] * 3
        require(
            all(p.requires_grad for p in model.parameters()),
            f"{what}: f, or the head, is still (or now) frozen",
        )
        require(all(p.requires_grad for p in loss.parameters()), f"{what}: the loss's centres are frozen")
        for part, module, want in (("f", model.f, lr / 10), ("the head", model.head, lr), ("the loss", loss, lr)):
            _rates(part, module, optimizer, want)
        climbs = any(group.get("maximize", False) for group in optimizer.param_groups)
        require(not climbs, f"{what}: maximize=True climbs the loss")
        _sound(what, model, optimizer, train_loader=batches, task_loss=F.cross_entropy, feature_loss=loss)
        _all_move(model, loss, optimizer, x, y)


def _kept(what: str, given, now) -> None:
    """Wrong where parameters are not those that were given, with their values"""
    same = len(now) == len(given) and all(p is q for (p, _), q in zip(given, now, strict=True))
    require(same, f"{what}: a part was replaced; what the first stage has learned is lost")
    values = all(torch.equal(p, value) for p, value in given)
    require(values, f"{what}: parameters have other values than before; what the first stage has learned is lost")


def _rates(part: str, module: nn.Module, optimizer, want: float) -> None:
    for name, p in module.named_parameters():
        held = [float(g["lr"]) for g in optimizer.param_groups for q in g["params"] if q is p]
        require(bool(held), f"no group of the optimizer holds {name} of {part}: it keeps its value")
        require(len(held) == 1, f"{name} of {part} stands in {len(held)} groups: a step moves it as often")
        known = ((10 * want, "f learns at the rate of the head"), (want / 10, "this is the rate for f alone"))
        expect(f"rate of {part}", held[0], want, known=known if math.isfinite(held[0]) else ())


def _all_move(model, loss, optimizer, x, y) -> None:
    before = [p.detach().clone() for p in (*model.parameters(), *loss.parameters())]
    z, logits = model.cut(x)
    optimizer.zero_grad()
    (F.cross_entropy(logits, y) + loss(z, y)).backward()
    optimizer.step()
    moved = [not torch.equal(p, q) for p, q in zip((*model.parameters(), *loss.parameters()), before, strict=True)]
    require(all(moved), f"after a step {moved.count(False)} of {len(moved)} tensors are where they were")


# ----------------------------------------------------------------------------------------------------------- evaluate


@checker("09.evaluate")
def _evaluate(answer):
    """model, loader -> the share of right answers as the model will be used; all modes as they were"""
    for sizes, seed in (((7, 7, 3), 0), ((5, 2), 1), ((11,), 2)):
        torch.manual_seed(seed)
        f = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
        model = nn.Sequential(f, nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3))
        f[1].running_mean += torch.randn(7)
        f[seed % 2].requires_grad_(False).eval()  # a frozen part, within one that is not: shall stay so
        batches = [(torch.randn(n, 5), torch.arange(n) % 3) for n in sizes]
        modes = [m.training for m in model.modules()]
        known, want = faulty_shares(model, batches), share_right(model, batches)
        for m, mode in zip(model.modules(), modes, strict=True):
            m.training = mode
        got, what = answer(model, batches), f"batches of {', '.join(map(str, sizes))}"
        left = [m.training for m in model.modules()] != modes
        expect(what, got, want, known=known)
        require(not left, f"{what}: some module is left in another mode than before (one was in eval mode, for good)")
        found = diagnose(model, torch.optim.SGD(model.parameters(), lr=0.1), evaluate=lambda: answer(model, batches))  # noqa: B023
        bad = [f for f in found if f.code in ("train_mode_in_evaluation", "gradients_in_evaluation")]
        require(not bad, f"{what}: the doctor still finds " + "; ".join(f"{f.code} ({f.message})" for f in bad))


# --------------------------------------------------------------------------------------------------------------- step


@checker("09.step", in_place=True, changes=(0, 1))
def _step(answer):
    """model, optimizer, x, y -> one step on cross-entropy, its gradient cut to length 1 at most"""
    for seed, scale in ((0, 8.0), (1, 0.5), (2, 20.0)):
        x, y = 3 * torch.randn(13, 5, generator=draw(seed)), torch.arange(13) % 3
        model, what = network(seed, scale), "after two steps"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(2):
            answer(model, optimizer, x, y)
        got = nn.utils.parameters_to_vector(model.parameters()).detach()
        require(model.training, f"{what} the model is left in eval mode")
        start = network(seed, scale)
        require(
            not torch.equal(got, nn.utils.parameters_to_vector(start.parameters()).detach()),
            f"{what} no parameter has moved",
        )
        wanted = after_steps(network(seed, scale), x, y)
        if not torch.allclose(got, wanted, atol=1e-4):
            fresh = network(seed, scale)
            given = {
                "train_loader": [(x, y)],
                "step": _call(answer, fresh, (opt := torch.optim.SGD(fresh.parameters(), lr=0.5))),
            }
            _sound(what, fresh, opt, **given)
        expect(f"the weights {what}", got, wanted, tolerance=1e-4, known=faulty_steps(seed, scale, x, y))
        fresh = network(seed, scale)
        opt = torch.optim.SGD(fresh.parameters(), lr=0.5)
        _sound(what, fresh, opt, train_loader=[(x, y)], step=_call(answer, fresh, opt))


def _call(answer, model, optimizer):
    return lambda x, y: answer(model, optimizer, x, y)


# ------------------------------------------------------------------------------------------------------------- labels


@checker("09.labels")
def _labels(answer):
    """ids (N, T), prompt (N,), length (N,) -> labels (N, T): ids of the answer and its end, −100 elsewhere"""
    cases = (((5, 3, 7), (9, 6, 11), 13, 0), ((2, 4), (11, 5), 11, 1), ((1, 3, 2, 5), (7, 7, 3, 6), 7, 2))
    for prompt, length, T, seed in cases:
        ids = torch.randint(5, 31, (len(prompt), T), generator=draw(seed))
        for row, p, n in zip(ids, prompt, length, strict=True):
            row[0], row[n - 1 :] = 1, END
            if p > 2:
                row[p - 2] = END  # the end of an earlier turn, in the prompt
        want = torch.full_like(ids, -100)
        for i, (p, n) in enumerate(zip(prompt, length, strict=True)):
            for t in range(p, n):
                want[i, t] = ids[i, t]
        got = answer(ids.clone(), torch.tensor(prompt), torch.tensor(length))
        what = f"prompts of {', '.join(map(str, prompt))} in {', '.join(map(str, length))} tokens"
        got = torch.as_tensor(got)
        expect(f"labels, {what}", got, want, known=mislabelled(ids, torch.tensor(prompt), torch.tensor(length), want))
        require(not got.is_floating_point(), f"{what}: labels are fractions; expected whole numbers, as ids are")
        require(got.dtype == torch.long, f"{what}: labels of {got.dtype}; cross-entropy takes torch.int64, as ids are")
        model = Talker()
        batch = {"input_ids": ids, "labels": got}
        _sound(what, model, torch.optim.AdamW(model.parameters(), lr=1e-3), train_loader=[batch] * 2)
