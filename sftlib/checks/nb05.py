"""Checkers of notebook 05: who is frozen, what moved, rates of a geometric schedule."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from sftlib.checks import Wrong, checker, choice, expect, require

MOVES = ("nothing", "statistics", "parameters", "both")


QUESTIONS = {
    "A": "an attribute that a module does not know is only a note on it: who asks `f.requires_grad`?",
    "B": "what does a BatchNorm in train mode do at each forward pass, gradient or not?",
    "C": "which mode is f in after the last line?",
    "D": "which mode is f in when the picture passes, and who holds its parameters?",
    "E": "the optimizer still holds f and its momentum; is the gradient None, or zero?",
}


@checker("05.which_freezes")
def _which_freezes(answer):
    """dict: script -> what of f moves, one of "nothing", "statistics", "parameters", "both"; found by running them"""
    answer = answer() if callable(answer) else answer
    require(isinstance(answer, dict), f"got a {type(answer).__name__}, expected the dict of the exercise, filled in")
    missing = [name for name in QUESTIONS if name not in answer]
    require(not missing, f"these scripts are missing: {', '.join(missing)}")
    answer = {name: choice(value, MOVES, repr(name)) for name, value in answer.items()}
    truth = {name: what_moves(script) for name, script in SCRIPTS.items()}
    wrong = [name for name in QUESTIONS if answer[name] != truth[name]]
    if wrong:
        raise Wrong(f"{len(wrong)} of {len(truth)} are wrong, the first is {wrong[0]!r}: {QUESTIONS[wrong[0]]}")


def what_moves(script):
    """script(f, g, x, y), which yields when f is meant to be frozen and then trains -> what of f moves after that"""
    draw = torch.Generator().manual_seed(0)
    f = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU())
    g = nn.Linear(5, 3)
    with torch.no_grad():
        for p in (*f.parameters(), *g.parameters()):
            p.copy_(torch.rand(p.shape, generator=draw) + 0.1)
    steps = script(f, g, torch.randn(11, 7, generator=draw), torch.arange(11) % 3)
    next(steps)
    before = copy.deepcopy(f.state_dict())
    next(steps, None)
    moved = {name for name, value in f.state_dict().items() if not torch.equal(value, before[name])}
    statistics = any("running" in name or "num_batches" in name for name in moved)
    parameters = any(name.endswith(("weight", "bias")) for name in moved)
    return MOVES[statistics + 2 * parameters]


def _train(f, g, x, y, optimizer, set_to_none=True):
    for _ in range(3):
        loss = nn.functional.cross_entropy(g(f(x)), y)
        optimizer.zero_grad(set_to_none=set_to_none)
        loss.backward()
        optimizer.step()


def _script_a(f, g, x, y):
    f.requires_grad = False
    yield
    nn.Sequential(f, g).train()
    _train(f, g, x, y, torch.optim.SGD([*f.parameters(), *g.parameters()], lr=0.1))


def _script_b(f, g, x, y):
    f.requires_grad_(False)
    yield
    f.train()
    _train(f, g, x, y, torch.optim.SGD(g.parameters(), lr=0.1))


def _script_c(f, g, x, y):
    f.requires_grad_(False).eval()
    yield
    nn.Sequential(f, g).train()
    _train(f, g, x, y, torch.optim.SGD(g.parameters(), lr=0.1))


def _script_d(f, g, x, y):
    yield
    nn.Sequential(f, g).train()
    f.eval()
    with torch.no_grad():
        z = f(x)
    _train(nn.Identity(), g, z, y, torch.optim.SGD(g.parameters(), lr=0.1))


def _script_e(f, g, x, y):
    optimizer = torch.optim.SGD([*f.parameters(), *g.parameters()], lr=0.1, momentum=0.9)
    _train(f, g, x, y, optimizer)
    f.requires_grad_(False).eval()
    yield
    _train(f, g, x, y, optimizer, set_to_none=False)


SCRIPTS = dict(zip(QUESTIONS, (_script_a, _script_b, _script_c, _script_d, _script_e), strict=True))


@checker("05.geometric_groups")
def _geometric_groups(answer):
    """parts (the input's first), lr, factor -> groups: the top learns at lr, each part below at 1 / factor of it"""
    cases = ((5, 0.03, 2.6, None), (3, 0.1, 2.0, None), (4, 0.1, 3.0, 1), (3, 0.2, 2.0, 0), (3, 0.2, 5.0, 2))
    for n, lr, factor, frozen in cases:
        parts = [nn.Linear(2 + i, 3) for i in range(n - 1)] + [nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))]
        parts[n - 2].bias.requires_grad_(False)  # parts of which something learns
        parts[0].weight.requires_grad_(False)
        if frozen is not None:
            parts[frozen].requires_grad_(False)
        groups = answer(list(parts), lr, factor)
        what = f"{n} parts, lr {lr}, factor {factor}" + ("" if frozen is None else f", part {frozen} frozen")
        found = _rates_found(groups, parts, what)
        l = torch.arange(n, dtype=torch.float64)  # noqa: E741  as in the formula
        want = lr / factor ** (n - 1 - l)
        known = [
            (want.flip(0), "turned round: the part at the input shall learn slowest"),
            (lr * factor ** (n - 1 - l), "the rates grow towards the input: divide by the factor"),
            (want / factor, "the top part shall learn at lr itself"),
            (lr / (1 + factor * (n - 1 - l)), "the rates fall by a difference, not by a factor"),
            (lr / factor * (n - 1 - l).clamp(min=1 / factor), "the rates fall by a difference, not by a factor"),
            (lr + 0 * l, "all parts have one rate"),
            (lr / factor ** (n - 1 - l).clamp(max=1), "divide again for each level further down"),
            (lr / (n - l), "the rates fall by the factor, not with the number of the level"),
        ]
        shown = [i for i in range(n) if i != frozen]
        if frozen is not None:
            levels = torch.tensor([sum(j > i for j in shown) for i in range(n)])
            known.append((lr / factor**levels, "a frozen part counts as a level too"))
        known = [(values, mistake) for values, mistake in known if not torch.equal(values[shown], want[shown])]
        expect(f"rates from the input up, {what}", found[shown], want[shown],
               known=[(values[shown], mistake) for values, mistake in known])  # fmt: skip


def _rates_found(groups, parts, what):
    """-> rate (n,) of each part's parameters in the optimizer, nan where all are frozen; Wrong when one is missing or
    held twice
    """
    require(isinstance(groups, list | tuple) and all(isinstance(g, dict) for g in groups),
            f"{what}: got a {type(groups).__name__}, expected a list of dicts with 'params' and 'lr'")  # fmt: skip
    rate = {}
    for group in groups:
        require("lr" in group and "params" in group, f"{what}: a group has {sorted(group)}, expected 'params' and 'lr'")
        params = [group["params"]] if isinstance(group["params"], torch.Tensor) else list(group["params"])
        require(params, f"{what}: a group has no parameters; append none for a part that is frozen")
        for p in params:
            require(isinstance(p, torch.Tensor), f"{what}: 'params' holds a {type(p).__name__}, expected parameters")
            require(id(p) not in rate, f"{what}: a parameter is in two groups")
            rate[id(p)] = float(group["lr"])
    found = []
    for i, part in enumerate(parts):
        held = any(id(p) in rate for p in part.parameters() if not p.requires_grad)
        require(not held, f"{what}: the optimizer holds a frozen parameter; leave out what requires no gradient")
        rates = {rate.get(id(p)) for p in part.parameters() if p.requires_grad}
        learns = [p.requires_grad for p in part.parameters()]
        hint = "" if all(learns) else "; of a part some may learn and some not: ask each parameter"
        require(None not in rates, f"{what}: part {i} has parameters in no group{hint}")
        require(len(rates) < 2, f"{what}: part {i} has several rates, {rates}; one part learns at one rate")
        found.append(*rates or {float("nan")})
    return torch.tensor(found, dtype=torch.float64)


def _small_f():
    """Linear, BatchNorm, ReLU in train mode, one bias without gradient"""
    draw = torch.Generator().manual_seed(0)
    f = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU())
    with torch.no_grad():
        for p in f.parameters():
            p.copy_(torch.rand(p.shape, generator=draw) + 0.1)
    f[1].bias.requires_grad_(False)
    return f.train()


def _rows():
    return torch.randn(11, 7, generator=torch.Generator().manual_seed(1))


def _step(f):
    optimizer = torch.optim.SGD([p for p in f.parameters() if p.requires_grad], lr=0.1)
    f(_rows()).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _pass_in_train_mode(f):
    with torch.no_grad():
        f(_rows())


def _pass_in_eval_mode(f):
    f.eval()
    _pass_in_train_mode(f)


@torch.no_grad()
def _last_bit(f):
    f[0].weight[2, 3] = torch.nextafter(f[0].weight[2, 3], torch.tensor(9.0))


@torch.no_grad()
def _exchange(f):
    f[0].bias.copy_(f[0].bias.flip(0))


def _count(f):
    f[1].num_batches_tracked.add_(1)


@torch.no_grad()
def _frozen_bias(f):
    f[1].bias.mul_(2)


USES = (
    ("a step of SGD in train mode", _step, "parameters and buffers count, and of all of them every number"),
    ("a pass in train mode", _pass_in_train_mode, "buffers count too, not only parameters"),
    ("a pass in eval mode", _pass_in_eval_mode, "nothing moved here"),
    ("numbers in another order", _exchange, "compare number by number: a sum or a norm misses this"),
    ("one number by its last bit", _last_bit, "compare every number, to the bit (torch.equal)"),
    ("a count of batches alone", _count, "whole numbers count too, one after the other"),
    ("a parameter without gradient", _frozen_bias, "it may move all the same, so it counts"),
)


@checker("05.moved", changes=(0,))
def _moved(answer):
    """f, use() -> names in f.state_dict() whose values use() changed, to the last bit; use() is called once"""
    for what, use, why in USES:
        f, calls = _small_f(), []
        twin, before = copy.deepcopy(f), copy.deepcopy(f.state_dict())
        use(twin)
        truth = {name for name, value in twin.state_dict().items() if not torch.equal(value, before[name])}

        def used(f=f, use=use, calls=calls):
            calls.append(use)
            use(f)

        got = _names(answer(f, used), set(before))
        require(calls, "use() was not called, so nothing could move")
        require(len(calls) == 1, f"use() was called {len(calls)} times; each call moves f on: call it once")
        require(_alike(f, twin), f"{what}: f is not as use() left it; look at it, and change nothing")
        _expect_names(what, got, truth, set(before), why)


def _names(answer, known):
    """An answer -> set of names; Wrong where it is none, or names what f does not have"""
    require(not isinstance(answer, str | bool | dict | torch.Tensor) and isinstance(answer, Iterable),
            f"got a {type(answer).__name__}; expected a set of names")  # fmt: skip
    names = list(answer)
    require(all(isinstance(name, str) for name in names), "expected names, as f.state_dict() has them")
    unknown = sorted(set(names) - known)
    require(not unknown, f"{unknown[:1]} is not in f.state_dict(); expected names such as {min(known)!r}")
    return set(names)


def _alike(f, twin):
    """Whether two modules are in one state: numbers, modes, and what requires a gradient"""
    states = f.state_dict(), twin.state_dict()
    numbers = all(torch.equal(states[0][name], value) for name, value in states[1].items())
    modes = [[m.training for m in module.modules()] for module in (f, twin)]
    learns = [[p.requires_grad for p in module.parameters()] for module in (f, twin)]
    return numbers and modes[0] == modes[1] and learns[0] == learns[1]


def _expect_names(what, got, truth, known, why):
    if got == truth:
        return
    if what == USES[0][0] and not got:
        why = "nothing was found: is `before` a copy? A state dict holds the tensors themselves"
    elif got == known - truth:
        why = "these are the names that did not move"
    missing, extra = sorted(truth - got), sorted(got - truth)
    found = [f"{missing[0]!r} moved"] if missing else [f"{extra[0]!r} did not move"]
    raise Wrong(f"{what}: {found[0]}; {why}")
