"""Checkers of notebook 02."""

import copy

import torch
from torch import nn

from sftlib.checks import Wrong, checker, expect, pair, require

PAIR = "two things, f's and then g's, as a pair"


@checker("02.sides")
def _sides(answer):
    """stages, cut -> (number of parameters in the first `cut` stages, in the others)"""
    stages = [nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Sequential(nn.ReLU(), nn.Conv2d(7, 11, 5)), nn.Linear(13, 2)]
    stages[0].requires_grad_(False)
    for cut in (1, 2, 3, 0, 4):
        got = pair(answer(list(stages), cut), PAIR)
        known = [(_count(stages, cut, how), why) for how, why in MISCOUNTS.items()]
        known += [
            (_count(stages, cut)[::-1], "the two numbers stand in the other order; f's comes first"),
            (_count(stages, cut + 1), "the cut lies one stage too high; f is the first `cut` stages"),
        ]
        if cut > 0:
            known += [(_count(stages, cut - 1), "the cut lies one stage too low; f is the first `cut` stages")]
        expect(f"cut {cut} of {len(stages)} stages", list(got), _count(stages, cut), known=known)


def _all(stage):
    return sum(p.numel() for p in stage.parameters())


def _tensors(stage):
    return len(list(stage.parameters()))


def _with_buffers(stage):
    return sum(t.numel() for t in stage.state_dict().values())


def _trainable(stage):
    return sum(p.numel() for p in stage.parameters() if p.requires_grad)


def _weights(stage):
    return sum(p.numel() for name, p in stage.named_parameters() if name.endswith("weight"))


MISCOUNTS = {
    _tensors: "this counts tensors; a tensor p holds p.numel() numbers",
    _with_buffers: "this counts BatchNorm's stored statistics too; they are buffers, not parameters",
    _trainable: "this leaves out frozen parameters; they are parameters all the same",
    _weights: "this leaves out the biases",
}


def _count(stages, cut, how=_all):
    return [sum(map(how, stages[:cut])), sum(map(how, stages[cut:]))]


@checker("02.cut")
def _cut(answer):
    """nn.Sequential, k -> (f, g), g(f(x)) = model(x), parameters shared, the model left alone"""
    relu = nn.ReLU()
    chain = nn.Sequential(nn.Linear(5, 7), relu, nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 2))  # in train mode
    twice = nn.Sequential(nn.Linear(5, 5), relu, nn.Linear(5, 3), relu, nn.Linear(3, 2)).eval()
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(11, 5, generator=draws)
    for p in (*chain.parameters(), *twice.parameters()):
        nn.init.normal_(p, generator=draws)  # the same at each check: no layer's output is all positive by chance
    for model in (chain, twice):
        for k in (2, 1, 4, 0, 5):
            _one_cut(answer, model, k, x, "" if model is chain else ", one ReLU used twice")


def _one_cut(answer, model, k, x, note):
    case = f"k={k} of {len(model)} layers{note}"
    layers, want = list(model), model(x)
    f, g = pair(answer(model, k), PAIR)
    require(isinstance(f, nn.Module) and isinstance(g, nn.Module), f"{case}: f and g must be modules (nn.Module)")
    require(list(model) == layers, f"{case}: the model itself was changed; it must keep its {len(layers)} layers")
    try:
        got = g(f(x))
    except RuntimeError as error:
        raise Wrong(f"{case}: g(f(x)) raised, so a layer is missing or there twice: {error}") from None
    why = "g(f(x)) differs from model(x); is a layer left out or run twice? (children() names a shared layer once)"
    require(got.shape == want.shape and torch.equal(got, want), f"{case}: {why}")
    own = [{id(p) for p in part.parameters()} for part in (model[:k], model[k:])]
    halves = [{id(p) for p in part.parameters()} for part in (f, g)]
    why = "these are copies; f and g must hold the model's own parameters, so that training them trains the model"
    require(not (halves[0] | halves[1]) - (own[0] | own[1]), f"{case}: {why}")
    why = f"the parameters are divided elsewhere; f must hold those of the first {k} layers, g those of the others"
    require(halves == own, f"{case}: {why}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    reached = torch.autograd.grad(got.sum(), parameters, allow_unused=True) if got.requires_grad else [None]
    why = "the gradient of g(f(x)) does not reach all parameters; is something detached between f and g?"
    require(all(gradient is not None for gradient in reached), f"{case}: {why}")


class _Two(nn.Module):
    """A model with the two names of the course."""

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        return self.head(self.backbone(x))


@checker("02.swap_head")
def _swap_head(answer):
    """model, K -> another model with the same backbone object and a new head of K classes"""
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    for dim, old_k, k in ((7, 3, 2), (3, 2, 13), (7, 5, 5)):
        backbone = nn.Sequential(nn.Linear(5, dim), nn.Tanh())
        backbone.feature_dim = dim
        model = _Two(backbone, nn.Linear(dim, old_k))
        head, state = model.head, copy.deepcopy(model.state_dict())
        flags = [p.requires_grad for p in model.parameters()]
        new = answer(model, k)
        require(isinstance(new, nn.Module), f"got a {type(new).__name__}; expected a Model")
        require(new is not model and model.head is head, "the old model was changed; it must keep its own head")
        require(
            hasattr(new, "backbone") and hasattr(new, "head"), "the answer has no .backbone and .head; make a Model"
        )
        why = "f is another object (a copy, or built anew); hand over model.backbone itself"
        require(new.backbone is backbone, why)
        require(new.head is not head, f"{old_k} -> {k} classes: the new model has the old head; make a new one")
        got = tuple(new(x).shape)
        require(got == (11, k), f"{old_k} -> {k} classes: 11 inputs give logits {got}; expected {(11, k)}")
        require(all(p.requires_grad for p in new.head.parameters()), "the new head is frozen; it has to learn")
        held = {id(p) for p in head.parameters()}
        require(not any(id(p) in held for p in new.head.parameters()), "the new head holds the old one's weights")
        copied = any(p.shape == q.shape and torch.equal(p, q) for p in new.head.parameters() for q in head.parameters())
        require(not copied, "the new head is a copy of the old one; make a new one, also for as many classes")
        _is_linear(new.head, backbone(x).detach())
        why = "the old weights changed, or whether they are trained; leave f and the old head alone"
        same = all(torch.equal(a, state[name]) for name, a in model.state_dict().items())
        require(same and flags == [p.requires_grad for p in model.parameters()], why)


def _is_linear(head, z):
    """A linear head, with or without bias: what z adds doubles with z"""
    with torch.no_grad():
        once, twice, bias = head(z), head(2 * z), head(torch.zeros_like(z))
    why = "the new head is not linear: no activation and no softmax belongs in it"
    require(torch.allclose(twice - bias, 2 * (once - bias), atol=1e-5), why)


WORK_CASES = (  # c_in, c_out, k, side, stride, padding, groups; the first tells all mistakes apart
    (6, 9, 3, 16, 4, 6, 3),
    (3, 7, 3, 11, 1, 0, 1),
    (2, 5, 3, 13, 2, 1, 1),
    (6, 9, 5, 17, 3, 2, 3),
    (7, 7, 3, 13, 1, 1, 7),
    (3, 64, 3, 224, 2, 0, 1),
    (4, 6, 3, 16, 4, 1, 2),
)


@checker("02.convolution_work")
def _convolution_work(answer):
    """sizes of a convolution -> its multiply-adds for one square input"""
    for case in WORK_CASES:
        c_in, c_out, k, side, stride, padding, groups = case
        layer = nn.Conv2d(c_in, c_out, k, stride, padding, groups=groups)
        out = layer(torch.zeros(1, c_in, side, side)).shape[-1]
        want = c_out * out**2 * layer.weight[0].numel()
        named = f"{c_in} -> {c_out} channels, k={k}, side={side}, stride={stride}, padding={padding}, groups={groups}"
        known = [
            (2 * want, "this counts multiplications and additions apart; a multiply-add is both together"),
            (want * groups, "this leaves out the groups: a filter sees only c_in / groups channels"),
            (want / groups, "this divides by the groups twice"),
            (want / out, "this counts one side of the output; the map is as high as it is wide"),
            (want / out**2, "these are the parameters; each filter is used at every place of the output"),
            (want / k, "this counts one side of the filter; it has k times k numbers a channel"),
            (
                want / out**2 * side**2,
                "this uses the side of the input; the filter is applied once a place of the output",
            ),
            (want + c_out * out**2, "this counts the bias; that is an addition without a multiplication"),
            (want / c_out, "this counts one map of the output; there are c_out"),
        ]
        for side_of_output, why in _other_sides(k, side, stride, padding):
            known.append((want / out**2 * side_of_output**2, why))
        known = [(value, why) for value, why in known if value != want]
        tolerance = 0.2 / want  # whole numbers: any difference counts
        got = answer(*case)
        expect(named, got, want, tolerance=tolerance, known=known if want > 0 else ())


def _other_sides(k, side, stride, padding):
    """Sides of the output that typical mistakes give, and the mistakes"""
    fits = side + 2 * padding - k
    return [
        ((side + padding - k) // stride + 1, "the padding lies on both sides: 2p"),
        ((side - k) // stride + 1, "the padding is missing"),
        (fits // stride, "the + 1 is missing: the filter fits once even where nothing is left to move"),
        (fits + 1, "the stride is missing"),
        (fits / stride + 1, "⌊ ⌋ is missing: round down to whole places"),
        (-(-fits // stride) + 1, "this rounds up; ⌊ ⌋ rounds down"),
        (round(fits / stride) + 1, "this rounds to the nearest; ⌊ ⌋ rounds down"),
    ]


class _Moody(nn.Module):
    """An extractor that gives other features in training mode, and notices nothing it is not asked."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 7), nn.BatchNorm1d(7)
        self.block = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.BatchNorm1d(7)))

    def forward(self, x):
        return self.block(self.norm(self.first(x)))


@checker("02.features")
def _features(answer):
    """f, x -> f(x) in eval mode, without gradient; f is left as it was"""
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    f = _Moody()
    with torch.no_grad():
        want = copy.deepcopy(f).eval()(x)
    for modes in ("some modules in training mode, one in eval mode", "all in eval mode", "all in training mode"):
        f.train(modes != "all in eval mode")
        if modes.startswith("some"):
            f.block[1].eval()
        _leaves_no_trace(answer, f, x, want, f"f with {modes}")


def _leaves_no_trace(answer, f, x, want, case):
    modes, flags = [m.training for m in f.modules()], [p.requires_grad for p in f.parameters()]
    state = copy.deepcopy(f.state_dict())
    got = answer(f, x)
    moved = [name for name, t in f.state_dict().items() if not torch.equal(t, state[name])]
    why = "BatchNorm's statistics moved, so f ran in training mode"
    require(not moved, f"{case}: {why} ({', '.join(moved)})")
    expect(f"{case}: the features", got, want, tolerance=1e-6)
    why = "the features carry a gradient; run f inside torch.no_grad()"
    require(not isinstance(got, torch.Tensor) or not got.requires_grad, f"{case}: {why}")
    after = [m.training for m in f.modules()]
    if after != modes:
        i = next(i for i, mode in enumerate(after) if mode != modes[i])
        name = [name for name, _ in f.named_modules()][i] or "f itself"
        now, then = (f"{'train' if m[i] else 'eval'} mode" for m in (after, modes))
        why = "f was left in eval mode" if not any(after) else f"{name} is in {now} now, it was in {then}"
        raise Wrong(f"{case}: {why}; give each module the mode it had")
    why = "parameters were frozen on the way; torch.no_grad() needs no requires_grad_(False)"
    require(flags == [p.requires_grad for p in f.parameters()], f"{case}: {why}")
