"""Checkers of notebook 05: who is frozen, rates of a geometric schedule, weights in between, merging LoRA."""

import copy

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
        parts[n - 2].bias.requires_grad_(False)  # a part of which something learns
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
        require(None not in rates, f"{what}: part {i} has parameters in no group")
        require(len(rates) < 2, f"{what}: part {i} has several rates, {rates}; one part learns at one rate")
        found.append(*rates or {float("nan")})
    return torch.tensor(found, dtype=torch.float64)


@checker("05.interpolate")
def _interpolate(answer):
    """theta0, theta1 (state dicts), a -> (1 − a) θ0 + a θ1, a new state dict that the model can load"""
    theta0, theta1 = _a_state(0, batches=7), _a_state(1, batches=100)
    kept = [copy.deepcopy(theta0), copy.deepcopy(theta1)]
    for a in (0.25, 0.0, 1.0):
        got = answer(theta0, theta1, a)
        require(isinstance(got, dict), f"a = {a}: got a {type(got).__name__}, expected a state dict")
        require(set(got) == set(theta0), f"a = {a}: the names differ from those of the state dicts")
        for name, start in theta0.items():
            for theta, old in zip((theta0, theta1), kept, strict=True):
                require(torch.equal(theta[name], old[name]), f"a = {a}: this changed {name!r} of an argument")
            if start.is_floating_point():
                _expect_between(name, got[name], start, theta1[name], a)
            else:
                _expect_a_count(name, got[name], start, theta1[name])
        shared = [name for name in theta0 if got[name].data_ptr() in (theta0[name].data_ptr(), theta1[name].data_ptr())]
        require(
            not shared, f"a = {a}: {shared and shared[0]!r} is the argument's own memory: training would change both"
        )


def _expect_between(name, got, start, end, a):
    known = [
        (a * start.double() + (1 - a) * end.double(), "a and 1 − a are exchanged: a = 0 is the start θ0"),
        (start.double() + a * end.double(), "θ0 counts whole: multiply it by 1 − a"),
        (start, "this is θ0, whatever a"),
        ((start.double() + end.double()) / 2, "this is half way, whatever a"),
    ]
    expect(f"{name} at a = {a}", got, (1 - a) * start.double() + a * end.double(), known=known)
    require(isinstance(got, torch.Tensor), f"{name} is a {type(got).__name__}; a model loads tensors")


def _expect_a_count(name, got, start, end):
    require(isinstance(got, torch.Tensor) and got.dtype == start.dtype,
            f"{name} counts batches and must stay {start.dtype}, got {getattr(got, 'dtype', type(got).__name__)}: "
            "take whole numbers over as they are")  # fmt: skip
    require(
        int(start) <= int(got) <= int(end), f"{name} is {int(got)}, expected a count from {int(start)} to {int(end)}"
    )


def _a_state(seed, batches):
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5))
    state = {name: torch.rand(v.shape, generator=draw).to(v.dtype) for name, v in model.state_dict().items()}
    return state | {"1.num_batches_tracked": torch.tensor(batches)}


@checker("05.merge")
def _merge(answer):
    """W (C_out, C_in, kh, kw), A (r, C_in, kh, kw), B (C_out, r, 1, 1), alpha -> W + α/r B A, a new kernel"""
    cases = (((5, 3, 2, 3, 2), 6.0), ((2, 7, 3, 3, 3), 1.0), ((3, 2, 1, 1, 1), 2.0), ((2, 3, 5, 1, 7), 3.0))
    for (out, into, high, wide, rank), alpha in cases:
        draw = torch.Generator().manual_seed(out)
        W = torch.randn(out, into, high, wide, generator=draw)
        A = torch.randn(rank, into, high, wide, generator=draw)
        B = torch.randn(out, rank, 1, 1, generator=draw)
        kept = W.clone()
        got = answer(W, A.clone(), B.clone(), alpha)
        BA = torch.einsum("or,rihw->oihw", B[:, :, 0, 0].double(), A.double())
        known = [
            (kept + BA, "the scale α/r is missing"),
            (kept + alpha * BA, "the scale is α / r, not α"),
            (kept + rank / alpha * BA, "the scale is α / r, not r / α"),
            (alpha / rank * BA, "this is ΔW alone: add W"),
            (kept - alpha / rank * BA, "ΔW is added, not taken away"),
            (kept + alpha * rank * BA, "the scale is α / r, not α · r"),
            (kept + alpha / into * BA, "r is the number of rows of A, not its C_in"),
            (kept + alpha / out * BA, "r is the number of rows of A, not C_out"),
            (kept + alpha / rank**0.5 * BA, "the scale is α / r, not α / √r"),
        ]
        what = f"a kernel {tuple(W.shape)}, rank {rank}, alpha {alpha:g}"
        expect(what, got, kept.double() + alpha / rank * BA, tolerance=1e-4, known=known)
        require(torch.equal(W, kept), "W itself was changed: subtracting later would not give its bits back")
