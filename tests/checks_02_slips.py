"""More answers to the exercises of notebook 02, written from their texts alone. SLIPS: (answer, the slip in words)."""

import copy
import itertools
import math
from collections import OrderedDict

import torch
from torch import nn

from sftlib.model import LinearHead, Model


def _count(stages, *, of=lambda s: s.parameters(), number=lambda p: p.numel()):
    return sum(number(p) for s in stages for p in of(s))


def _sides(**slip):
    return lambda stages, cut: (_count(stages[:cut], **slip), _count(stages[cut:], **slip))


def _pop(stages, cut):
    f = 0
    for _ in range(cut):
        f += _count([stages.pop(0)])
    return f, _count(stages)


class _Detached(nn.Sequential):
    def forward(self, x):
        return super().forward(x).detach()


class _Slice(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def _named(model, k):
    named = list(model.named_children())
    return nn.Sequential(OrderedDict(named[:k])), nn.Sequential(OrderedDict(named[k:]))


def _pieces(model, k):
    f, g = nn.Sequential(), nn.Sequential()
    for i, layer in enumerate(model):
        (f if i < k else g).append(layer)
    return f, g


def _deleted(model, k):
    g = nn.Sequential(*list(model)[k:])
    while len(model) > k:
        del model[-1]
    return model, g


def _frozen_f(model, k):
    return model[:k].requires_grad_(False), model[k:]


def _same_numbers(model, k):
    f, g = copy.deepcopy(model[:k]), copy.deepcopy(model[k:])
    f.load_state_dict(model[:k].state_dict())
    return f, g


class _Probabilities(nn.Linear):
    def forward(self, x):
        return super().forward(x).softmax(1)


def _replaced(model, num_classes):
    model.head = LinearHead(model.head.in_features, num_classes)
    return model


def _shallow(model, num_classes):
    new = copy.copy(model)
    new.head = LinearHead(model.head.in_features, num_classes)
    return new


def _back_again(model, num_classes):
    old = model.head
    new = Model(model.backbone, old)
    new.head = nn.Linear(old.in_features, num_classes)
    return new


def _frozen_backbone(model, num_classes):
    model.backbone.requires_grad_(False)
    return Model(model.backbone, LinearHead(model.head.in_features, num_classes))


def _frozen_head(model, num_classes):
    return Model(model.backbone, LinearHead(model.head.in_features, num_classes).requires_grad_(False))


def _eval_backbone(model, num_classes):
    return Model(model.backbone.eval(), LinearHead(model.head.in_features, num_classes))


def _two_layers(model, num_classes):
    d = model.head.in_features
    return Model(model.backbone, nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, num_classes)))


def _old_rows(model, num_classes):
    head = nn.Linear(model.head.in_features, num_classes)
    head.weight = model.head.weight
    return Model(model.backbone, head)


def _work(*, out=lambda s, p, k, st: (s + 2 * p - k) // st + 1, size=lambda o: o * o, filters=lambda c, g: c // g,
          per=lambda k: k * k, maps=lambda c, g: c, then=lambda w: w):  # fmt: skip
    def convolution_work(c_in, c_out, k, side, stride=1, padding=0, groups=1):
        return then(maps(c_out, groups) * size(out(side, padding, k, stride)) * filters(c_in, groups) * per(k))

    return convolution_work


def _meta(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    layer = nn.Conv2d(c_in, c_out, k, stride, padding, groups=groups, device="meta")
    out = layer(torch.empty(1, c_in, side, side, device="meta"))
    return out.numel() * layer.weight[0].numel()


def _positions(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    n = len(range(0, side + 2 * padding - k + 1, stride))
    return int(n**2 * c_out * (c_in / groups) * k**2)


def _with_bias(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    n = (side + 2 * padding - k) // stride + 1
    return c_out * n * n * (c_in // groups * k * k + 1)


def _features(*, quiet=torch.no_grad, before=lambda f: f.eval(), after=lambda f, modes: _restore(modes)):
    def features(f, x):
        modes = [(m, m.training) for m in f.modules()]
        before(f)
        with quiet():
            z = f(x)
        after(f, modes)
        return z

    return features


def _restore(modes):
    for module, mode in modes:
        module.training = mode


def _children(f, x):
    modes = [(m, m.training) for m in (f, *f.children())]
    f.eval()
    with torch.no_grad():
        z = f(x)
    _restore(modes)
    return z


def _train_by_calls(f, x):
    """In the order of modules() each parent comes before its children, which come last"""
    modes = {m: m.training for m in f.modules()}
    f.eval()
    with torch.no_grad():
        z = f(x)
    for m, mode in modes.items():
        m.train(mode)
    return z


def _train_from_below(f, x):
    modes = {m: m.training for m in f.modules()}
    f.eval()
    with torch.no_grad():
        z = f(x)
    for m, mode in reversed(list(modes.items())):
        m.train(mode)
    return z


def _off_for_good(f, x):
    torch.set_grad_enabled(False)
    return _features()(f, x)


def _frozen(f, x):
    f.requires_grad_(False)
    return _features()(f, x)


def _in_two_halves(f, x):
    """BatchNorm sees half a batch where it is not in eval mode"""
    with torch.no_grad():
        return torch.cat([f(x[: len(x) // 2]), f(x[len(x) // 2 :])])


def _momentum_off(f, x):
    z = _features()(f, x)
    for module in f.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0
    return z


def _buffers_back(f, x):
    kept = copy.deepcopy(f.state_dict())
    with torch.no_grad():
        z = f(x)
    f.load_state_dict(kept)
    return z


RIGHT = {
    "02.sides": [
        _sides(), lambda stages, cut: [sum(map(torch.numel, nn.ModuleList(s).parameters())) for s in
                                       (stages[:cut], stages[cut:])],
        _sides(number=lambda p: math.prod(p.shape)),
        lambda stages, cut: tuple(torch.tensor([_count(stages[:cut]), _count(stages[cut:])])),
        lambda stages, cut: (_count(itertools.islice(stages, cut)), _count(list(stages)) - _count(stages[:cut])),
        _sides(of=lambda s: [p for _, p in s.named_parameters()], number=lambda p: p.flatten().shape[0]),
    ],
    "02.cut": [
        lambda model, k: (model[:k], model[k:]), _pieces,
        lambda model, k: (nn.Sequential(*list(model)[:k]), nn.Sequential(*list(model)[k:])),
        lambda model, k: [_Slice(list(model)[:k]), _Slice(list(model)[k:])],
        lambda model, k: (nn.Sequential(*[model[i] for i in range(k)]) if k else nn.Identity(),
                          nn.Sequential(*[model[i] for i in range(k, len(model))]) if model[k:] else nn.Identity()),
        lambda model, k: tuple(nn.Sequential(OrderedDict((str(i), m) for i, m in enumerate(part)))
                               for part in (list(model)[:k], list(model)[k:])),
    ],
    "02.swap_head": [
        lambda model, n: Model(model.backbone, LinearHead(model.head.in_features, n)),
        lambda model, n: Model(model.backbone, nn.Linear(model.head.in_features, n)),
        lambda model, n: Model(model.backbone, nn.Linear(model.head.weight.shape[1], n)), _back_again,
        lambda model, n: type(model)(model.backbone, type(model.head)(model.head.in_features, n)),
        lambda model, n: Model(backbone=model.backbone, head=LinearHead(model.head.in_features, num_classes=n)),
    ],
    "02.convolution_work": [
        _work(), _meta, _positions, _work(filters=lambda c, g: c / g),
        _work(out=lambda s, p, k, st: math.floor((s + 2 * p - k) / st) + 1, then=torch.tensor),
        _work(out=lambda s, p, k, st: (s + 2 * p - k + st) // st, per=lambda k: k**2),
    ],
    "02.features": [
        _features(), _features(quiet=torch.inference_mode), _train_by_calls,
        lambda f, x: copy.deepcopy(f).eval()(x).detach(), _features(quiet=lambda: torch.set_grad_enabled(False)),
        torch.no_grad()(lambda f, x: _features()(f, x)),
        _features(before=lambda f: [setattr(m, "training", False) for m in f.modules()]),
    ],
}  # fmt: skip

SLIPS = {
    "02.sides": [
        (_sides(number=lambda p: 1), "tensors"),
        (_sides(number=lambda p: p.numel() if p.requires_grad else 0), "trainable only"),
        (_sides(of=lambda s: s.parameters(recurse=False)), "outermost only"),
        (_sides(of=lambda s: s.state_dict().values()), "buffers too"),
        (_sides(of=lambda s: [p for n, p in s.named_parameters() if n.endswith("weight")]), "weights only"),
        (_sides(of=lambda s: [p for p in s.parameters() if p.ndim > 1]), "matrices only"),
        (_sides(number=len), "rows"),
        (_sides(number=lambda p: p.shape[0] * p.shape[-1]), "first times last side"),
        (lambda stages, cut: (_count(stages[: cut + 1]), _count(stages[cut + 1 :])), "one too far"),
        (lambda stages, cut: (_count(stages[: cut + 1]), _count(stages[cut:])), "one twice"),
        (lambda stages, cut: (_count(stages[:cut]), _count(stages[cut + 1 :])), "one left out"),
        (lambda stages, cut: (_count(stages[cut:]), _count(stages[:cut])), "g first"),
        (lambda stages, cut: (_count(stages[:cut]), _count(stages)), "all for g"),
        (lambda stages, cut: (_count(stages[:-cut]), _count(stages[-cut:])), "from the end"),
        (lambda stages, cut: _count(stages[:cut]), "f only"),
        (_pop, "list emptied"),
        (lambda stages, cut: (_count(stages[:cut]) * 4, _count(stages[cut:]) * 4), "bytes"),
        (lambda stages, cut: (cut, len(stages) - cut), "stages"),
    ],
    "02.cut": [
        (lambda model, k: (copy.deepcopy(model[:k]), copy.deepcopy(model[k:])), "copies"),
        (_same_numbers, "copies of equal numbers"),
        (lambda model, k: (model[:k], copy.deepcopy(model[k:])), "g copied"),
        (_named, "a layer used twice is named once"),
        (lambda model, k: (model[: k + 1], model[k + 1 :]), "one too far"),
        (lambda model, k: (model[k:], model[:k]), "g first"),
        (lambda model, k: (model[:k], model), "g is all"),
        (lambda model, k: (list(model)[:k], list(model)[k:]), "lists"),
        (lambda model, k: (nn.ModuleList(model)[:k], nn.ModuleList(model)[k:]), "ModuleLists"),
        (lambda model, k: (model, nn.Identity()), "all in f"),
        (lambda model, k: (nn.Identity(), model), "all in g"),
        (_deleted, "model emptied"),
        (_frozen_f, "f frozen"),
        (lambda model, k: (_Detached(*list(model)[:k]), model[k:]), "no way back for the gradient"),
        (lambda model, k: (model[:k].eval(), model[k:]), "mode changed"),
        (lambda model, k: (model[0], model[1:]), "k = 1 always"),
        (lambda model, k: (nn.Sequential(*[m for m in list(model)[:k] if list(m.parameters())]), model[k:]),
         "layers without parameters lost"),
        (lambda model, k: (model[:k], model[k:], None), "three things"),
        (lambda model, k: (model[:-k], model[-k:]), "from the end"),
        (lambda model, k: (lambda x: model[:k](x), lambda x: model[k:](x)), "functions"),
    ],
    "02.swap_head": [
        (_replaced, "old model changed"),
        (_shallow, "shallow copy"),
        (lambda model, n: Model(copy.deepcopy(model.backbone), LinearHead(model.head.in_features, n)), "f copied"),
        (lambda model, n: Model(model.backbone, model.head), "old head"),
        (lambda model, n: Model(model.backbone, copy.deepcopy(model.head)), "copy of the old head"),
        (lambda model, n: model, "old model"),
        (lambda model, n: Model(model.backbone, LinearHead(n, model.head.in_features)), "sides exchanged"),
        (lambda model, n: Model(model.backbone, LinearHead(model.head.in_features, n + 1)), "one class too many"),
        (lambda model, n: Model(model.backbone, LinearHead(512, n)), "fixed width"),
        (_two_layers, "two layers"),
        (_frozen_backbone, "f frozen"),
        (_frozen_head, "g frozen"),
        (_eval_backbone, "mode changed"),
        (lambda model, n: Model(model.backbone, _Probabilities(model.head.in_features, n)), "softmax in g"),
        (lambda model, n: nn.Sequential(model.backbone, nn.Linear(model.head.in_features, n)), "no Model"),
        (lambda model, n: LinearHead(model.head.in_features, n), "head only"),
        (_old_rows, "old weight"),
        (lambda model, n: Model(model.backbone, nn.Sequential(model.head, nn.Linear(model.head.out_features, n))),
         "behind the old head"),
        (lambda model, n: Model(model.backbone, copy.deepcopy(model.head) if n == model.head.out_features else
                                LinearHead(model.head.in_features, n)), "a copy for as many classes"),
        (lambda model, n: Model(nn.Sequential(model.backbone), LinearHead(model.head.in_features, n)), "f wrapped"),
        (lambda model, n: Model(model.backbone, LinearHead(model.head.in_features, 2)), "two classes"),
    ],
    "02.convolution_work": [
        (_work(out=lambda s, p, k, st: (s + p - k) // st + 1), "padding on one side"),
        (_work(out=lambda s, p, k, st: (s - k) // st + 1), "no padding"),
        (_work(out=lambda s, p, k, st: (s + 2 * p - k) // st), "without + 1"),
        (_work(out=lambda s, p, k, st: (s + 2 * p - k) / st + 1), "not rounded down"),
        (_work(out=lambda s, p, k, st: -((k - s - 2 * p) // st) + 1), "rounded up"),
        (_work(out=lambda s, p, k, st: round((s + 2 * p - k) / st) + 1), "rounded"),
        (_work(out=lambda s, p, k, st: s + 2 * p - k + 1), "no stride"),
        (_work(out=lambda s, p, k, st: s), "side of the input"),
        (_work(out=lambda s, p, k, st: -(-s // st)), "same padding"),
        (_work(filters=lambda c, g: c), "no groups"),
        (_work(filters=lambda c, g: c // g, maps=lambda c, g: c // g), "groups twice"),
        (_work(filters=lambda c, g: c * g), "times groups"),
        (_work(per=lambda k: k), "k once"),
        (_work(size=lambda o: o), "one side of the output"),
        (_work(size=lambda o: 1), "parameters"),
        (_work(then=lambda w: 2 * w), "multiplications and additions apart"),
        (_work(maps=lambda c, g: 1), "one map"),
        (_with_bias, "bias"),
        (_work(out=lambda s, p, k, st: int((s + 2 * p - k) / st + 1.5)), "half rounded up"),
    ],
    "02.features": [
        (_features(after=lambda f, modes: None), "left in eval mode"),
        (_features(after=lambda f, modes: f.train()), "all in train mode"),
        (_features(after=lambda f, modes: f.train(modes[0][1])), "all as the first"),
        (_features(after=lambda f, modes: setattr(f, "training", modes[0][1])), "the outermost only"),
        (_children, "children only"),
        (_train_from_below, "put back from below"),
        (_features(before=lambda f: None), "not in eval mode"),
        (_features(before=lambda f: setattr(f, "training", False)), "the outermost in eval mode"),
        (_features(before=lambda f: [setattr(m, "training", False) for m in f.modules() if isinstance(m, nn.Dropout)]),
         "dropout only"),
        (_features(before=lambda f: [m.eval() for m in f.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]),
         "BatchNorm only"),
        (_features(quiet=torch.enable_grad), "with gradient"),
        (_off_for_good, "gradients off for good"),
        (_frozen, "f frozen"),
        (_momentum_off, "an attribute of BatchNorm changed"),
        (_buffers_back, "train mode, buffers put back"),
        (_in_two_halves, "halves, in train mode"),
        (lambda f, x: _features()(f, x.mul_(1.5)), "x changed"),
        (lambda f, x: _features()(f, x)[:1], "one row"),
        (lambda f, x: _features()(f, x).requires_grad_(), "asks for a gradient again"),
    ],
}  # fmt: skip
