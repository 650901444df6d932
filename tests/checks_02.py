"""Right and wrong answers to the exercises of notebook 02. WRONG: (answer, words that the checker must say)."""

import copy

import numpy as np
import torch
from torch import nn

from sftlib.model import LinearHead, Model


def _numbers(module):
    return sum(p.numel() for p in module.parameters())


def _sides_loop(stages, cut):
    f = g = 0
    for i, stage in enumerate(stages):
        for p in stage.parameters():
            if i < cut:
                f += p.shape.numel()
            else:
                g += p.shape.numel()
    return f, g


def _sides_by(count, shift=0):
    def answer(stages, cut):
        cut = max(cut + shift, 0)
        return sum(map(count, stages[:cut])), sum(map(count, stages[cut:]))

    return answer


def _frozen_left_out(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class _Chain(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def _cut_by_popping(model, k):
    layers = [model.pop(0) for _ in range(k)]
    return nn.Sequential(*layers), model


def _new_head_in_place(model, num_classes):
    model.head = LinearHead(model.head.in_features, num_classes)
    return model


def _new_head_on_a_shallow_copy(model, num_classes):
    new = copy.copy(model)
    new.head = LinearHead(model.head.in_features, num_classes)
    return new


def _new_head_frozen_f(model, num_classes):
    model.backbone.requires_grad_(False)
    return Model(model.backbone, LinearHead(model.head.in_features, num_classes))


def _new_head_with_weights_reset(model, num_classes):
    for p in model.backbone.parameters():
        nn.init.zeros_(p)
    return Model(model.backbone, LinearHead(model.head.in_features, num_classes))


def _work(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    out = (side + 2 * padding - k) // stride + 1
    return c_out * out * out * (c_in // groups) * k * k


def _work_by_a_layer(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    layer = nn.Conv2d(c_in, c_out, k, stride, padding, groups=groups, bias=False)
    return layer(torch.zeros(1, c_in, side, side)).numel() * layer.weight[0].numel()


def _work_per_group(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    places = len(range(0, side + 2 * padding - k + 1, stride)) ** 2
    return groups * (c_in // groups) * (c_out // groups) * k**2 * places


def _work_twice(*sizes):
    return 2 * _work(*sizes)


def _work_without_groups(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    return _work(c_in, c_out, k, side, stride, padding)


def _work_without_padding(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    return _work(c_in, c_out, k, side, stride, 0, groups)


def _work_without_stride(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    return _work(c_in, c_out, k, side, 1, padding, groups)


def _work_of_narrow_filters(c_in, c_out, k, *others):
    return _work(c_in, c_out, k, *others) // k


def _work_not_rounded(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    return c_out * ((side + 2 * padding - k) / stride + 1) ** 2 * c_in / groups * k * k


def _work_of_input_side(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    return c_out * side * side * (c_in // groups) * k * k


def _parameters(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    return c_out * (c_in // groups) * k * k


def _work_with_bias(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    out = (side + 2 * padding - k) // stride + 1
    return c_out * out * out * ((c_in // groups) * k * k + 1)


def _features(f, x):
    modes = [(m, m.training) for m in f.modules()]
    try:
        with torch.inference_mode():
            return f.eval()(x)
    finally:
        for m, mode in modes:
            m.training = mode


def _features_detached(f, x):
    modes = {name: m.training for name, m in f.named_modules()}
    f.eval()
    z = f(x).detach()
    for name, mode in modes.items():
        f.get_submodule(name).training = mode
    return z


@torch.no_grad()
def _features_of_a_copy(f, x):
    return copy.deepcopy(f).eval()(x)


def _features_left_in_eval(f, x):
    with torch.no_grad():
        return f.eval()(x)


def _features_back_to_train(f, x):
    with torch.no_grad():
        z = f.eval()(x)
    f.train()
    return z


def _features_root_mode_only(f, x):
    mode = f.training
    with torch.no_grad():
        z = f.eval()(x)
    f.train(mode)
    return z


def _features_with_gradient(f, x):
    modes = [(m, m.training) for m in f.modules()]
    z = f.eval()(x)
    for m, mode in modes:
        m.training = mode
    return z


def _features_freezing(f, x):
    f.requires_grad_(False)
    return _features(f, x)


def _features_in_train_mode(f, x):
    with torch.no_grad():
        return f(x)


RIGHT = {
    "02.sides": [
        _sides_by(_numbers),
        _sides_loop,
        lambda stages, cut: [_numbers(nn.ModuleList(stages[:cut])), _numbers(nn.ModuleList(stages[cut:]))],
        lambda stages, cut: np.array([sum(map(_numbers, stages[:cut])), sum(map(_numbers, stages[cut:]))]),
        lambda stages, cut: tuple(torch.tensor(sum(map(_numbers, part))) for part in (stages[:cut], stages[cut:])),
    ],
    "02.cut": [
        lambda model, k: (model[:k], model[k:]),
        lambda model, k: (nn.Sequential(*list(model)[:k]), nn.Sequential(*list(model)[k:])),
        lambda model, k: [_Chain(list(model)[:k]), _Chain(list(model)[k:])],
        lambda model, k: (nn.Sequential(*(model[i] for i in range(k))), model[k:] if k < len(model) else nn.Identity()),
    ],
    "02.swap_head": [
        lambda model, K: Model(model.backbone, LinearHead(model.head.in_features, K)),
        lambda model, K: Model(model.backbone, nn.Linear(model.head.weight.shape[1], K)),
        lambda model, K: type(model)(model.backbone, nn.Linear(model.head.in_features, K)),
        lambda model, K: Model(backbone=model.backbone, head=LinearHead(model.backbone.feature_dim, K)),
        lambda model, K: Model(model.backbone, nn.Sequential(nn.Linear(model.head.in_features, 17), nn.Linear(17, K))),
    ],
    "02.convolution_work": [_work, _work_by_a_layer, _work_per_group],
    "02.features": [_features, _features_detached, _features_of_a_copy],
}
WRONG = {
    "02.sides": [
        (_sides_by(lambda m: len(list(m.parameters()))), "counts tensors"),
        (_sides_by(lambda m: sum(t.numel() for t in m.state_dict().values())), "statistics"),
        (_sides_by(_frozen_left_out), "frozen"),
        (_sides_by(_numbers, shift=1), "too high"),
        (_sides_by(_numbers, shift=-1), "too low"),
        (lambda stages, cut: _sides_loop(stages, cut)[::-1], "other order"),
        (lambda stages, cut: sum(map(_numbers, stages[:cut])), "pair"),
        (lambda stages, cut: (_numbers(stages[cut - 1]), _numbers(stages[cut])), "cut"),
        (_sides_by(lambda m: sum(p.numel() for n, p in m.named_parameters() if "weight" in n)), "biases"),
    ],
    "02.cut": [
        (lambda model, k: (model[: k + 1], model[k + 1 :]), "divided elsewhere"),
        (lambda model, k: (model[:k], model), "missing or there twice"),
        (lambda model, k: (model[k:], model[:k]), "missing or there twice"),
        (lambda model, k: (copy.deepcopy(model[:k]), copy.deepcopy(model[k:])), "copies"),
        (lambda model, k: (copy.deepcopy(model)[:k], model[k:]), "copies"),
        (lambda model, k: (nn.Sequential(*list(model.children())[:k]), nn.Sequential(*list(model.children())[k:])),
         "children"),
        (lambda model, k: (model, nn.Identity()), "divided elsewhere"),
        (lambda model, k: (lambda x: model[:k](x), model[k:]), "modules"),
        (lambda model, k: model[:k], "pair"),
        (_cut_by_popping, "changed"),
    ],
    "02.swap_head": [
        (_new_head_in_place, "old model was changed"),
        (_new_head_on_a_shallow_copy, "old model was changed"),
        (lambda model, K: Model(copy.deepcopy(model.backbone), LinearHead(model.head.in_features, K)), "another"),
        (lambda model, K: Model(model.backbone, model.head), "old head"),
        (lambda model, K: Model(model.backbone, LinearHead(model.head.in_features, 2)), "expected (11, 13)"),
        (lambda model, K: Model(model.backbone, LinearHead(7, K)), "expects (N, 7)"),
        (lambda model, K: Model(model.backbone, LinearHead(model.head.in_features, K).requires_grad_(False)), "frozen"),
        (lambda model, K: LinearHead(model.head.in_features, K), "no .backbone"),
        (lambda model, K: model, "old model was changed"),
        (_new_head_frozen_f, "whether they are trained"),
        (_new_head_with_weights_reset, "old weights changed"),
    ],
    "02.convolution_work": [
        (_work_twice, "apart"),
        (_work_without_groups, "leaves out the groups"),
        (_work_without_padding, "expected"),
        (_work_without_stride, "expected"),
        (_work_of_input_side, "side of the input"),
        (_parameters, "these are the parameters"),
        (_work_with_bias, "bias"),
        (_work_of_narrow_filters, "one side of the filter"),
        (_work_not_rounded, "expected"),
    ],
    "02.features": [
        (lambda f, x: f(x), "statistics moved"),
        (_features_in_train_mode, "statistics moved"),
        (_features_left_in_eval, "left in eval mode"),
        (_features_back_to_train, "block.1 is in train mode now, it was in eval mode"),
        (_features_root_mode_only, "block.1 is in train mode now, it was in eval mode"),
        (_features_with_gradient, "carry a gradient"),
        (_features_freezing, "frozen on the way"),
        (lambda f, x: torch.zeros(11, 7), "the features"),
        (lambda f, x: _features(f, x).mean(0), "shape"),
    ],
}  # fmt: skip
