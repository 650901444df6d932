"""More answers to the exercises of notebook 09, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

# ------------------------------------------------------------------------------------------------------------ batches


def _pairs(x, y, shift=-1):
    return [(a, b + shift) for a, b in zip(x, y, strict=True)]


def _listed(x, y):
    return DataLoader(_pairs(x, y), batch_size=8, shuffle=True, drop_last=True)


def _seeded(x, y):
    draw = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(x, y - 1), 8, shuffle=True, generator=draw, drop_last=True)


def _by_sampler(x, y):
    data = TensorDataset(x, y - y.min())
    return DataLoader(data, 8, sampler=RandomSampler(data), drop_last=True)


def _renumbered(x, y):
    return DataLoader(TensorDataset(x, y.unique(return_inverse=True)[1]), batch_size=8, shuffle=True, drop_last=True)


def _of_seven(x, y):
    return DataLoader(list(zip(x, y - 1, strict=True)), batch_size=7, shuffle=True)


def _subset(x, y):
    return DataLoader(TensorDataset(x, y - 1), 8, sampler=SubsetRandomSampler(range(len(y))), drop_last=True)


def _ld(*, shift=1, **settings):
    settings = {"batch_size": 8, "shuffle": True, "drop_last": True} | settings
    return lambda x, y: DataLoader(TensorDataset(x, y - shift), **settings)


def _weighted(x, y):
    sampler = WeightedRandomSampler(torch.ones(len(y)), len(y))
    return DataLoader(TensorDataset(x, y - 1), 8, sampler=sampler, drop_last=True)


def _labels_shuffled(x, y):
    return DataLoader(TensorDataset(x, (y - 1)[torch.randperm(len(y))]), 8, shuffle=True, drop_last=True)


def _only_x(x, y):
    return DataLoader(TensorDataset(x), 8, shuffle=True, drop_last=True)


def _turned(x, y):
    return DataLoader(TensorDataset(y - 1, x), 8, shuffle=True, drop_last=True)


def _scaled(x, y):
    return DataLoader(TensorDataset((x - x.mean(0)) / x.std(0), y - 1), 8, shuffle=True, drop_last=True)


def _clamped(x, y):
    return DataLoader(TensorDataset(x, (y - 1).clamp(max=1) * 0 + (y == 1).long()), 8, shuffle=True, drop_last=True)


def _of_a_list(x, y):
    order = torch.randperm(len(y))
    return [(x[rows], y[rows] - 1) for rows in order.split(8)]


# ---------------------------------------------------------------------------------------------------------- optimizer


def _groups(model, loss, lr, rates, kind=SGD, **settings):
    model.requires_grad_(True)
    parts = {"f": model.f, "g": model.head, "l": loss}
    return kind([{"params": list(parts[k].parameters()), "lr": r} for k, r in rates.items()], lr=lr, **settings)


def _og(f=0.1, g=1.0, loss=1.0, kind=SGD, leave=(), **settings):
    rates = {"f": f, "g": g, "l": loss}
    return lambda m, c, lr: _groups(m, c, lr, {k: r * lr for k, r in rates.items() if k not in leave}, kind, **settings)


def _each_its_own(model, loss, lr):
    for p in model.f.parameters():
        p.requires_grad = True
    groups = [{"params": [p], "lr": lr * 0.1} for p in model.f.parameters()]
    groups += [{"params": [p]} for p in [*model.head.parameters(), *loss.parameters()]]
    return Adam(groups, lr=lr)


def _added_to(model, loss, lr):
    optimizer = SGD(model.head.parameters(), lr=lr, momentum=0.9)
    for p in model.f.parameters():
        p.requires_grad_()
    optimizer.add_param_group({"params": model.f.parameters(), "lr": lr / 10})
    optimizer.add_param_group({"params": loss.parameters()})
    return optimizer


def _no_unfreeze(model, loss, lr):
    return SGD([{"params": model.f.parameters(), "lr": lr / 10}, {"params": [*model.head.parameters(),
                *loss.parameters()]}], lr=lr)  # fmt: skip


def _by_attribute(model, loss, lr):
    model.f.requires_grad = True
    return _no_unfreeze(model, loss, lr)


def _head_frozen(model, loss, lr):
    optimizer = _og()(model, loss, lr)
    model.head.requires_grad_(False)
    return optimizer


def _weights_alone(model, loss, lr):
    model.requires_grad_(True)
    named = [p for n, p in model.named_parameters() if "weight" in n and n.startswith("f")]
    return SGD([{"params": named, "lr": lr / 10}, {"params": [*model.head.parameters(), *loss.parameters()]}], lr=lr)


def _everything_at_once(model, loss, lr):
    model.requires_grad_(True)
    return SGD([*model.parameters(), *loss.parameters()], lr=lr)


def _copied(model, loss, lr):
    model.requires_grad_(True)
    return SGD([nn.Parameter(p.detach().clone()) for p in (*model.parameters(), *loss.parameters())], lr=lr)


def _centres_frozen(model, loss, lr):
    loss.requires_grad_(False)
    return _og()(model, loss, lr)


# ----------------------------------------------------------------------------------------------------------- evaluate


class _kept:
    def __init__(self, model, mode=False):
        self.was, self.model, self.mode = [(m, m.training) for m in model.modules()], model, mode

    def __enter__(self):
        self.model.train(self.mode)

    def __exit__(self, *_):
        for m, mode in self.was:
            m.training = mode


def _counted(model, loader):
    with _kept(model), torch.no_grad():
        hits = n = 0
        for x, y in loader:
            hits += (model(x).argmax(dim=-1) == y).sum().item()
            n += y.numel()
    return hits / n


def _at_once(model, loader):
    with _kept(model), torch.inference_mode():
        x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
        return torch.eq(model(x).softmax(1).argmax(1), y).double().mean()


def _weighted_means(model, loader):
    with _kept(model), torch.no_grad():
        pairs = [((model(x).argmax(1) == y).float().mean() * len(y), len(y)) for x, y in loader]
    return float(sum(a for a, _ in pairs)) / sum(n for _, n in pairs)


@torch.no_grad()
def _topk(model, loader):
    modes = {name: m.training for name, m in model.named_modules()}
    try:
        model.eval()
        right = [model(x).topk(1).indices[:, 0].eq(y) for x, y in loader]
    finally:
        for name, m in model.named_modules():
            m.training = modes[name]
    return torch.cat(right).float().mean().item()


def _ev(*, mode=False, grad=False, keep=True, pick=lambda out: out.argmax(1), share=lambda r, n: sum(r) / sum(n)):
    def evaluate(model, loader):
        held = _kept(model, mode)
        with torch.set_grad_enabled(grad):
            held.__enter__()
            found = [(int((pick(model(x)) == y).sum()), len(y)) for x, y in loader]
        if keep:
            held.__exit__()
        return share(*zip(*found, strict=True))

    return evaluate


def _back_to_train(model, loader):
    model.eval()
    share = _counted(model, loader)
    model.train()
    return share


def _of_the_children(model, loader):
    was = [m.training for m in model.children()]
    model.eval()
    share = _counted(model, loader)
    model.train()
    for m, mode in zip(model.children(), was, strict=True):
        m.train(mode)
    return share


def _early_return(model, loader):
    for x, y in loader:
        return _counted(model, [(x, y)])


# --------------------------------------------------------------------------------------------------------------- step


def _ordinary(model, optimizer, x, y):
    for p in model.parameters():
        p.grad = None
    loss = nn.CrossEntropyLoss()(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_norm=1)
    optimizer.step()


def _zero_last(model, optimizer, x, y):
    F.nll_loss(F.log_softmax(model(x), dim=1), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _norm_by_hand(model, optimizer, x, y):
    optimizer.zero_grad(set_to_none=False)
    F.cross_entropy(model(x), y).backward()
    total = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.parameters()))
    if total > 1:
        for p in model.parameters():
            p.grad.mul_(1 / total)
    optimizer.step()


def _by_autograd(model, optimizer, x, y):
    params = list(model.parameters())
    for p, g in zip(params, torch.autograd.grad(F.cross_entropy(model(x), y), params), strict=True):
        p.grad = g
    nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


def _mean_of_each(model, optimizer, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y, reduction="none").mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _st(*, zero=True, loss=F.cross_entropy, clip="after", most=1.0, way=None, steps=1):
    def step(model, optimizer, x, y):
        if zero:
            optimizer.zero_grad()
        cut = way or (lambda params: nn.utils.clip_grad_norm_(params, most))
        if clip == "before":
            cut(list(model.parameters()))
        loss(model(x), y).backward()
        if clip == "after":
            cut(list(model.parameters()))
        for _ in range(steps):
            optimizer.step()
        if clip == "late":
            cut(list(model.parameters()))

    return step


def _each_cut(params):
    for p in params:
        nn.utils.clip_grad_norm_([p], 1.0)


def _always_one(params):
    total = torch.cat([p.grad.flatten() for p in params]).norm()
    for p in params:
        p.grad /= total


# ------------------------------------------------------------------------------------------------------------- labels


def _looped(ids, prompt, length):
    labels = torch.full_like(ids, -100)
    for i in range(len(ids)):
        labels[i, prompt[i] : length[i]] = ids[i, prompt[i] : length[i]]
    return labels


def _masked(ids, prompt, length):
    t = torch.arange(ids.shape[1]).expand_as(ids)
    return ids.masked_fill((t < prompt.unsqueeze(1)) | (t >= length.unsqueeze(1)), -100)


def _python(ids, prompt, length):
    return torch.tensor([
        [n if p <= t < e else -100 for t, n in enumerate(row)]
        for row, p, e in zip(ids.tolist(), prompt.tolist(), length.tolist(), strict=True)
    ])  # fmt: skip


def _where(ids, prompt, length):
    t = torch.arange(ids.size(1))[None]
    return torch.where((t >= prompt[:, None]).logical_and(t < length[:, None]), ids, torch.tensor(-100))


def _in_place(ids, prompt, length):
    labels = ids.clone()
    for row, p, e in zip(labels, prompt.tolist(), length.tolist(), strict=True):
        row[:p], row[e:] = -100, -100
    return labels


def _lb(*, a=0, b=0, none=-100, of_prompt=True, of_padding=True, after=lambda labels: labels):
    def labels_of(ids, prompt, length):
        labels = ids.clone()
        for row, p, e in zip(labels, prompt.tolist(), length.tolist(), strict=True):
            if of_padding:
                row[e + b :] = none
            if of_prompt:
                row[: p + a] = none
        return after(labels)

    return labels_of


def _shift(labels):
    return torch.cat([labels[:, 1:], torch.full((len(labels), 1), -100)], dim=1)


def _ends_out(labels):
    return labels.masked_fill(labels == 2, -100)


def _changes_ids(ids, prompt, length):
    ids[torch.arange(ids.shape[1]) < prompt[:, None]] = -100
    ids[torch.arange(ids.shape[1]) >= length[:, None]] = -100
    return ids


RIGHT = {
    "09.batches": [_listed, _seeded, _by_sampler, _renumbered, _of_seven, _subset],
    "09.optimizer": [_og(), _og(kind=AdamW), _og(kind=RMSprop), _each_its_own, _added_to],
    "09.evaluate": [_counted, _at_once, _weighted_means, _topk, _ev()],
    "09.step": [_ordinary, _zero_last, _norm_by_hand, _by_autograd, _mean_of_each],
    "09.labels": [_looped, _masked, _python, _where, _in_place],
}
SLIPS = {
    "09.batches": [
        (_ld(shuffle=False), "not shuffled"),
        (_ld(shift=0), "labels from 1"),
        (_ld(drop_last=False), "a last batch of one"),
        (_ld(batch_size=16), "batches of 16"),
        (_ld(batch_size=1), "batches of one"),
        (_ld(shift=2), "labels from −1"),
        (_weighted, "drawn with repetition"),
        (_labels_shuffled, "labels shuffled alone"),
        (_only_x, "labels left out"),
        (_turned, "x and y exchanged"),
        (_scaled, "x changed"),
        (_clamped, "classes merged"),
        (_of_a_list, "a list of one epoch's batches"),
        (lambda x, y: TensorDataset(x, y - 1), "no loader"),
    ],
    "09.optimizer": [
        (_og(f=1.0), "f at the rate of the head"),
        (_og(g=0.1), "the head at the rate of f"),
        (_og(loss=0.1), "the loss at the rate of f"),
        (_og(f=10.0), "ten times, not a tenth"),
        (_og(f=0.0), "f at rate 0"),
        (_og(leave=("l",)), "the loss left out"),
        (_og(leave=("f",)), "f left out"),
        (_og(leave=("g",)), "the head left out"),
        (_no_unfreeze, "f still frozen"),
        (_by_attribute, "requires_grad set on the module"),
        (_head_frozen, "the head frozen instead"),
        (_weights_alone, "biases of f left out"),
        (_everything_at_once, "one group"),
        (_copied, "copies of the parameters"),
        (_centres_frozen, "the centres frozen"),
    ],
    "09.evaluate": [
        (_ev(mode=True), "train mode"),
        (_ev(grad=True), "gradients on"),
        (_ev(keep=False), "left in eval mode"),
        (_back_to_train, "everything set to train"),
        (_of_the_children, "the children's modes alone"),
        (_ev(share=lambda r, n: sum(a / b for a, b in zip(r, n, strict=True)) / len(n)), "mean of means"),
        (_ev(share=lambda r, n: sum(r)), "number of right ones"),
        (_ev(share=lambda r, n: 100 * sum(r) / sum(n)), "percent"),
        (_ev(share=lambda r, n: 1 - sum(r) / sum(n)), "errors"),
        (_ev(share=lambda r, n: r[-1] / n[-1]), "the last batch"),
        (_ev(share=lambda r, n: sum(r) / len(n)), "divided by the number of batches"),
        (_ev(pick=lambda out: out.argmin(1)), "the smallest"),
        (_ev(pick=lambda out: out.amax(1)), "the largest logit itself"),
        (_early_return, "returns within the loop"),
    ],
    "09.step": [
        (_st(zero=False), "never zeroed"),
        (_st(loss=lambda out, y: F.cross_entropy(out.softmax(1), y)), "softmax before"),
        (_st(clip="before"), "clipped before backward"),
        (_st(clip="before", zero=False), "the script as it was, without softmax"),
        (_st(clip="late"), "clipped after the step"),
        (_st(clip=None), "not clipped"),
        (_st(most=5.0), "clipped to 5"),
        (_st(way=lambda params: nn.utils.clip_grad_value_(params, 1.0)), "each number clipped"),
        (_st(way=_each_cut), "each parameter clipped alone"),
        (_st(way=_always_one), "short gradients made longer"),
        (_st(steps=2), "two steps"),
        (_st(steps=0), "no step"),
        (_st(loss=lambda out, y: F.cross_entropy(out, y, reduction="sum")), "the sum, not the mean"),
        (_st(loss=lambda out, y: F.nll_loss(out, y)), "scores into nll_loss"),
        (_st(loss=lambda out, y: F.cross_entropy(out.detach(), y)), "cut off"),
        (_st(loss=lambda out, y: -F.cross_entropy(out, y)), "climbs"),
    ],
    "09.labels": [
        (_lb(of_prompt=False), "the prompt learned"),
        (_lb(of_padding=False), "the padding learned"),
        (_lb(of_prompt=False, of_padding=False), "nothing masked"),
        (_lb(b=-1), "the end left out"),
        (_lb(b=1), "one of the padding"),
        (_lb(a=1), "the first of the answer left out"),
        (_lb(a=-1), "one of the prompt"),
        (_lb(none=0), "0 for none"),
        (_lb(none=-1), "−1 for none"),
        (_lb(after=_shift), "shifted"),
        (_lb(after=_ends_out), "ends masked by their number"),
        (_lb(of_prompt=False, of_padding=False, after=_ends_out), "the script as it was"),
        (_lb(after=lambda labels: labels != -100), "a mask"),
        (_lb(after=lambda labels: labels[:, 1:]), "one column less"),
        (_lb(after=lambda labels: labels.float()), "fractions"),
        (_changes_ids, "changes ids"),
    ],
}
