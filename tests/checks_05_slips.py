"""More answers to the exercises of notebook 05, written from their texts alone. SLIPS: (answer, the slip in words)."""

import copy
from collections import OrderedDict

import torch

MOVES = {"A": "both", "B": "statistics", "C": "statistics", "D": "nothing", "E": "parameters"}


def _open(part):
    return [p for p in part.parameters() if p.requires_grad]


def _groups(parts, lr, factor, *, rate=lambda lr, factor, depth, n: lr / factor**depth, params=_open, skip=True,
            level_of_frozen=True):  # fmt: skip
    groups, depth = [], 0
    for part in reversed(parts):
        found = params(part)
        if found or not skip:
            groups.append({"params": found, "lr": rate(lr, factor, depth, len(parts))})
        if found or level_of_frozen:
            depth += 1
    return groups


def _gr(**slip):
    return lambda parts, lr, factor: _groups(parts, lr, factor, **slip)


def _by_product(parts, lr, factor):
    groups = []
    for part in parts[::-1]:
        groups += [{"params": _open(part), "lr": lr}] if _open(part) else []
        lr /= factor
    return groups[::-1]


def _reversed_in_place(parts, lr, factor):
    parts.reverse()
    return [{"params": _open(p), "lr": lr / factor**d} for d, p in enumerate(parts) if _open(p)]


def _unfrozen(parts, lr, factor):
    for part in parts:
        part.requires_grad_(True)
    return _groups(parts, lr, factor)


def _last_frozen(parts, lr, factor):
    """A part with one frozen parameter counts as frozen"""
    return _gr(params=lambda part: list(part.parameters()) if all(p.requires_grad for p in part.parameters()) else [])(
        parts, lr, factor
    )


def _watch(f, use, *, copied=lambda v: v.clone(), same=lambda a, b: bool((a == b).all()), look=lambda f: f.state_dict(),
           name=str, pick=lambda n: True):  # fmt: skip
    start = {n: copied(v) for n, v in look(f).items()}
    use()
    return {name(n) for n, v in look(f).items() if pick(n) and not same(v, start[n])}


def _mv(**slip):
    return lambda f, use: _watch(f, use, **slip)


def _by_twin(f, use):
    """The copy is the whole module"""
    old = copy.deepcopy(f)
    use()
    now, then = f.state_dict(), old.state_dict()
    return [n for n in now if not torch.equal(now[n], then[n])]


def _put_back(f, use):
    start = copy.deepcopy(f.state_dict())
    found = _by_twin(f, use)
    f.load_state_dict(start)
    return found


def _opened(f, use):
    return _watch(f.requires_grad_(True), use)


RIGHT = {
    "05.which_freezes": [
        MOVES, {k: v.upper() for k, v in MOVES.items()}, {k: f" {v.title()}  " for k, v in MOVES.items()},
        dict(sorted(MOVES.items(), reverse=True)), OrderedDict(MOVES),
    ],
    "05.geometric_groups": [
        _gr(), _by_product, lambda parts, lr, factor: _groups(parts, lr, factor)[::-1],
        lambda parts, lr, factor: [
            {"params": list(filter(lambda p: p.requires_grad, part.parameters())),
             "lr": lr * (1 / factor) ** (len(parts) - 1 - i)}
            for i, part in enumerate(parts) if any(p.requires_grad for p in part.parameters())
        ],
        lambda parts, lr, factor: [{"name": str(i), **g} for i, g in enumerate(_groups(parts, lr, factor))],
        _gr(params=lambda part: tuple(_open(part))),
    ],
    "05.moved": [
        _mv(), _by_twin, lambda f, use: tuple(_watch(f, use)), lambda f, use: dict.fromkeys(_watch(f, use)).keys(),
        _mv(copied=lambda v: v.numpy().copy(), same=lambda a, b: bool((a.numpy() == b).all())),
        _mv(copied=lambda v: v.tolist(), same=lambda a, b: a.tolist() == b),
        _mv(look=lambda f: dict([*f.named_parameters(), *f.named_buffers()]), copied=lambda v: v.detach().clone()),
        lambda f, use: (n for n in sorted(_watch(f, use))),
    ],
}  # fmt: skip
SLIPS = {
    "05.which_freezes": [
        (MOVES | {"A": "nothing"}, "A freezes"), (MOVES | {"A": "statistics"}, "A: parameters still"),
        (MOVES | {"A": "parameters"}, "A: statistics still"), (MOVES | {"B": "nothing"}, "B freezes all"),
        (MOVES | {"B": "both"}, "B moves all"), (MOVES | {"C": "nothing"}, "C: eval lasts"),
        (MOVES | {"C": "parameters"}, "C: parameters"), (MOVES | {"D": "statistics"}, "D: statistics"),
        (MOVES | {"D": "parameters"}, "D: parameters"), (MOVES | {"E": "nothing"}, "E: zero is none"),
        (MOVES | {"E": "both"}, "E: statistics too"), (MOVES | {"E": "statistics"}, "E: statistics"),
        ({k: v for k, v in MOVES.items() if k != "E"}, "E missing"), (list(MOVES.values()), "a list"),
        (dict.fromkeys("ABCDE", "nothing"), "all freeze"), (MOVES | {"D": "none"}, "no such word"),
    ],
    "05.geometric_groups": [
        (_gr(rate=lambda lr, f, d, n: lr * f**d), "faster below"),
        (_gr(rate=lambda lr, f, d, n: lr / f ** (n - 1 - d)), "the wrong way round"),
        (_gr(rate=lambda lr, f, d, n: lr / f ** (d + 1)), "the top slower too"),
        (_gr(rate=lambda lr, f, d, n: lr / (f * d) if d else lr), "divided by multiples"),
        (_gr(rate=lambda lr, f, d, n: lr / f if d else lr), "divided once"),
        (_gr(rate=lambda lr, f, d, n: lr), "one rate"),
        (_gr(rate=lambda lr, f, d, n: lr / (1 + d)), "factor unused"),
        (_gr(rate=lambda lr, f, d, n: lr - d * lr / f), "subtracted"),
        (_gr(level_of_frozen=False), "frozen levels not counted"),
        (_gr(params=lambda part: list(part.parameters())), "frozen ones too"),
        (_gr(skip=False), "empty groups"),
        (_gr(params=lambda part: _open(part)[:1]), "weights only"),
        (_gr(params=lambda part: [n for n, p in part.named_parameters() if p.requires_grad]), "names"),
        (_gr(params=lambda part: [p.detach().clone() for p in _open(part)]), "copies"),
        (_gr(params=lambda part: [p for p in part.parameters(recurse=False) if p.requires_grad]), "outermost only"),
        (_last_frozen, "partly frozen left out"),
        (_gr(params=lambda part: _open(part) if next(part.parameters()).requires_grad else []), "the first one asked"),
        (_reversed_in_place, "list turned round"),
        (_unfrozen, "all opened"),
        (lambda parts, lr, factor: [g["params"] for g in _groups(parts, lr, factor)], "no rates"),
        (lambda parts, lr, factor: [{"params": sum((_open(p) for p in parts), []), "lr": lr}], "one group"),
        (lambda parts, lr, factor: _groups(parts, lr, factor)[:-1], "without the lowest"),
        (lambda parts, lr, factor: [{"params": g["params"], "rate": g["lr"]} for g in _groups(parts, lr, factor)],
         "no lr"),
    ],
    "05.moved": [
        (_mv(copied=lambda v: v), "not copied"), (_mv(copied=lambda v: v.detach()), "detached, not copied"),
        (_mv(copied=lambda v: v.numpy()), "shared with NumPy"),
        (_mv(look=lambda f: dict(f.named_parameters())), "parameters alone"),
        (_mv(look=lambda f: {n: p for n, p in f.named_parameters() if p.requires_grad}), "trainable ones alone"),
        (_mv(look=lambda f: dict(f.named_buffers())), "buffers alone"),
        (_mv(pick=lambda n: "num_batches" not in n), "no counts"),
        (_mv(same=lambda a, b: torch.allclose(a.double(), b.double())), "nearly equal"),
        (_mv(same=lambda a, b: torch.equal(a.float().sum(), b.float().sum())), "sums"),
        (_mv(same=lambda a, b: bool((a == b).any())), "any for all"),
        (_mv(same=lambda a, b: a is b), "identity"),
        (_mv(same=lambda a, b: bool((a != b).any())), "the wrong way round"),
        (_mv(same=lambda a, b: a.shape == b.shape), "shapes"),
        (_mv(name=lambda n: n.split(".")[-1]), "the end of the names"),
        (_mv(name=lambda n: "f." + n), "another name"),
        (lambda f, use: len(_watch(f, use)), "how many"), (lambda f, use: bool(_watch(f, use)), "whether"),
        (lambda f, use: " ".join(_watch(f, use)), "a text"),
        (lambda f, use: {n: n in _watch(f, lambda: None) for n in f.state_dict()}, "a dict, not used"),
        (_put_back, "put back"), (_opened, "opened"), (lambda f, use: set(), "never anything"),
        (lambda f, use: set(f.state_dict()), "always all"),
        (lambda f, use: (use(), _watch(f, use))[1], "used twice"), (lambda f, use: _watch(f, lambda: None), "not used"),
        (lambda f, use: _watch(copy.deepcopy(f), use), "another f looked at"),
    ],
}  # fmt: skip
