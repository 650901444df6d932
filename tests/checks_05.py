"""Right and wrong answers to the exercises of notebook 05. WRONG: (answer, words that the checker must say)."""

import copy

import torch

from sftlib.adaptation import geometric_rates, param_groups, trainable

MOVES = {"A": "both", "B": "statistics", "C": "statistics", "D": "nothing", "E": "parameters"}


def _loop(parts, lr, factor):
    groups = []
    for part in reversed(parts):
        params = [p for p in part.parameters() if p.requires_grad]
        if params:
            groups.append({"params": params, "lr": lr})
        lr = lr / factor
    return groups


def _sftlib(parts, lr, factor):
    return param_groups(**geometric_rates({f"part{i}": part for i, part in enumerate(parts)}, lr=lr, factor=factor))


def _asked_the_first(parts, lr, factor):
    groups = _groups(parts, _powers(parts, lr, factor)[::-1])
    return [group for group, part in zip(groups, parts, strict=True) if next(part.parameters()).requires_grad]


def _one_each(parts, lr, factor):
    return [
        {"params": p, "lr": lr * factor ** (l + 1 - len(parts))}
        for l, part in enumerate(parts)  # noqa: E741
        for p in trainable(part)
    ]


def _groups(parts, rates, wanted=trainable):
    return [{"params": list(wanted(part)), "lr": lr} for part, lr in zip(parts, rates, strict=True)]


def _powers(parts, lr, factor):
    return [lr / factor**i for i in range(len(parts))]


def _moved(f, use):
    before = copy.deepcopy(f.state_dict())
    use()
    return {name for name, value in f.state_dict().items() if not torch.equal(value, before[name])}


def _moved_in_loops(f, use):
    before = {name: value.clone() for name, value in (*f.named_parameters(), *f.named_buffers())}
    use()
    names = []
    for name, value in (*f.named_parameters(), *f.named_buffers()):
        if (value != before[name]).any():
            names.append(name)
    return names


def _moved_as_numpy(f, use):
    before = {name: value.numpy().tobytes() for name, value in f.state_dict().items()}
    use()
    return frozenset(name for name, value in f.state_dict().items() if value.numpy().tobytes() != before[name])


def _found(f, use, *, keep=lambda state: copy.deepcopy(state), same=torch.equal, of=lambda f: f.state_dict(), times=1):
    before = keep(of(f))
    for _ in range(times):
        use()
    return {name for name, value in of(f).items() if not same(value, before[name])}


def _moves(**slip):
    return lambda f, use: _found(f, use, **slip)


RIGHT = {
    "05.which_freezes": [
        MOVES,
        dict(reversed(MOVES.items())),
        {name: f" {moves.upper()} " for name, moves in MOVES.items()},
    ],
    "05.geometric_groups": [_loop, _sftlib, _one_each],
    "05.moved": [_moved, _moved_in_loops, _moved_as_numpy, lambda f, use: sorted(_moved(f, use))],
}
WRONG = {
    "05.which_freezes": [
        (MOVES | {"A": "nothing"}, "only a note on it"),
        (MOVES | {"B": "nothing", "C": "nothing"}, "2 of 5 are wrong, the first is 'B'"),
        (MOVES | {"C": "nothing"}, "after the last line"),
        (MOVES | {"D": "statistics"}, "when the picture passes"),
        (MOVES | {"E": "nothing"}, "None, or zero"),
        (MOVES | {"E": "weights"}, "expected one of 'nothing', 'statistics'"),
        ({"A": "both"}, "missing: B, C, D, E"),
        (list(MOVES.values()), "expected the dict"),
    ],
    "05.geometric_groups": [
        (lambda parts, lr, factor: _groups(parts, _powers(parts, lr, factor)), "turned round"),
        (lambda parts, lr, factor: _groups(parts, _powers(parts, lr, 1 / factor)[::-1]), "grow towards the input"),
        (lambda parts, lr, factor: _groups(parts, _powers(parts, lr / factor, factor)[::-1]), "at lr itself"),
        (lambda parts, lr, factor: _groups(parts, [lr] * len(parts)), "one rate"),
        (
            lambda parts, lr, factor: _groups(parts, _powers(parts, lr, factor)[::-1], lambda p: p.parameters()),
            "holds a frozen parameter",
        ),
        (lambda parts, lr, factor: 2 * _loop(parts, lr, factor), "in two groups"),
        (lambda parts, lr, factor: _loop(parts[1:], lr, factor), "in no group"),
        (_asked_the_first, "part 0 has parameters in no group; of a part some may learn"),
        (lambda parts, lr, factor: [{"params": parts[0].parameters()}], "expected 'params' and 'lr'"),
        (lambda parts, lr, factor: dict(enumerate(parts)), "expected a list of dicts"),
    ],
    "05.moved": [
        (_moves(keep=lambda state: state), "is `before` a copy?"),
        (_moves(keep=dict), "is `before` a copy?"),
        (_moves(of=lambda f: dict(f.named_parameters())), "'1.num_batches_tracked' moved"),
        (_moves(of=lambda f: dict(f.named_buffers())), "every number"),
        (_moves(same=torch.allclose), "to the bit"),
        (_moves(same=lambda a, b: torch.equal(a.float().norm(), b.float().norm())), "a sum or a norm misses this"),
        (_moves(times=0), "was not called"),
        (_moves(times=2), "called 2 times"),
        (lambda f, use: set(f.state_dict()) - _moved(f, use), "did not move"),
        (lambda f, use: bool(_moved(f, use)), "got a bool"),
        (lambda f, use: [f.get_parameter("0.weight") for _ in _moved(f, use)], "expected names"),
        (lambda f, use: _moved(f.eval(), use), "is not as use() left it"),
    ],
}
