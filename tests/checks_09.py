"""Right and wrong answers to the exercises of notebook 09. WRONG: (answer, words that the checker must say)."""

from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Subset, TensorDataset

# ------------------------------------------------------------------------------------------------------------ batches


def loader_of(x, y, *, low=1, shuffle=True, size=8, drop=True, **more):
    return DataLoader(TensorDataset(x, y - low), batch_size=size, shuffle=shuffle, drop_last=drop, **more)


def _once(x, y):
    order = torch.randperm(len(y))
    return loader_of(x[order], y[order], shuffle=False)


def _apart(x, y):
    return loader_of(x[torch.randperm(len(x))], y)


def _with_repeats(x, y):
    rows = torch.randint(len(y), (len(y),))
    return DataLoader(Subset(TensorDataset(x, y - 1), rows.tolist()), batch_size=8, shuffle=True, drop_last=True)


def _sampled(x, y):
    sampler = BatchSampler(RandomSampler(range(len(y))), 8, drop_last=True)
    return DataLoader(TensorDataset(x, y - 1), batch_sampler=sampler)


# ---------------------------------------------------------------------------------------------------------- optimizer


def optimizer_of(
    model, loss, lr, *, f=0.1, head=1.0, of_loss=1.0, kind=SGD, unfreeze=True, parts=("f", "head", "loss")
):
    if unfreeze:
        model.f.requires_grad_(True)
    groups = {"f": (model.f, f), "head": (model.head, head), "loss": (loss, of_loss)}
    made = [(module.parameters(), factor) for name, (module, factor) in groups.items() if name in parts]
    return kind([{"params": p, "lr": factor * lr} for p, factor in made], lr=lr)


def _added(model, loss, lr):
    model.requires_grad_(True)
    optimizer = Adam(list(model.head.parameters()) + list(loss.parameters()), lr=lr)
    optimizer.add_param_group({"params": list(model.f.parameters()), "lr": lr / 10})
    return optimizer


def _unfrozen_late(model, loss, lr):
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.f.requires_grad_(True)
    return optimizer


def _head_replaced(model, loss, lr):
    model.head = nn.Linear(11, model.head.out_features)
    return optimizer_of(model, loss, lr)


def _head_drawn_anew(model, loss, lr):
    nn.init.normal_(model.head.weight)
    return optimizer_of(model, loss, lr)


def _named(model, loss, lr):
    model.f.requires_grad_()
    parts = ((model.f, lr / 10), (model.head, lr), (loss, lr))
    return SGD([{"params": part.named_parameters(), "lr": rate} for part, rate in parts], lr=lr, momentum=0.9)


def _twice(model, loss, lr):
    model.f.requires_grad_(True)
    optimizer = optimizer_of(model, loss, lr)
    optimizer.param_groups[1]["params"] += list(model.f.parameters())
    return optimizer


# ----------------------------------------------------------------------------------------------------------- evaluate


def evaluate_of(model, loader, *, mode=False, grad=False, restore=True, share=lambda right, n: sum(right) / sum(n)):
    modes = [(m, m.training) for m in model.modules()]
    if mode is not None:
        model.train(mode)
    with torch.set_grad_enabled(grad):
        right = [int((model(x).argmax(1) == y).sum()) for x, y in loader]
    if restore:
        for m, was in modes:
            m.training = was
    return share(right, [len(y) for _, y in loader])


def _mean_of_means(right, n):
    return sum(a / b for a, b in zip(right, n, strict=True)) / len(n)


@torch.inference_mode()
def _joined(model, loader):
    modes = {m: m.training for m in model.modules()}
    model.eval()
    hits = torch.cat([model(x).argmax(1) == y for x, y in loader])
    for m in modes:
        m.training = modes[m]
    return hits.float().mean()


def _of_a_copy(model, loader):
    return evaluate_of(deepcopy(model), loader)


def _all_to_train(model, loader):
    share = evaluate_of(model, loader)
    model.train()
    return share


def _children_alone(model, loader):
    modes = [(m, m.training) for m in (model, *model.children())]
    share = evaluate_of(model, loader, restore=False)
    model.training = modes[0][1]
    for m, was in modes[1:]:
        m.train(was)
    return share


def _module_by_module(model, loader):
    """Modes set back from the outermost module inwards: what is inside has the last word"""
    modes = {name: m.training for name, m in model.named_modules()}
    share = evaluate_of(model, loader, restore=False)
    for name, was in modes.items():
        model.get_submodule(name).train(was)
    return share


def _unfrozen_after(model, loader):
    """Without gradients, by switching them off and on: what was frozen learns afterwards"""
    model.requires_grad_(False)
    share = evaluate_of(model, loader)
    model.requires_grad_(True)
    return share


# --------------------------------------------------------------------------------------------------------------- step


def step_of(model, optimizer, x, y, *, zero=True, loss=F.cross_entropy, cut=1.0, early=False, times=1, moves=True):
    for _ in range(times):
        if zero:
            optimizer.zero_grad()
        if early:
            nn.utils.clip_grad_norm_(model.parameters(), cut)
        loss(model(x), y).backward()
        if cut is not None and not early:
            nn.utils.clip_grad_norm_(model.parameters(), cut)
        if moves:
            optimizer.step()


def _by_hand(model, optimizer, x, y):
    nn.CrossEntropyLoss()(model(x), y).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    for p in model.parameters():
        p.grad /= max(norm.item(), 1.0)
    optimizer.step()
    model.zero_grad()


def softmax_first(out, y):
    return F.cross_entropy(out.softmax(1), y)


# ------------------------------------------------------------------------------------------------------------- labels


def labels_of(ids, prompt, length, *, start=0, stop=0, none=-100):
    at = torch.arange(ids.shape[1])
    answer = (at >= prompt[:, None] + start) & (at < length[:, None] + stop)
    return torch.where(answer, ids, none)


def _rows(ids, prompt, length):
    labels = ids.clone()
    for row, p, n in zip(labels, prompt, length, strict=True):
        row[:p] = -100
        row[n:] = -100
    return labels


def _by_number(ids, prompt, length):
    labels = ids.clone()
    labels[ids == 2] = -100
    return labels


RIGHT = {
    "09.batches": [loader_of, _sampled, lambda x, y: loader_of(x, y, size=7), lambda x, y: loader_of(x, y, size=6)],
    "09.optimizer": [
        optimizer_of, _added, lambda model, loss, lr: optimizer_of(model, loss, lr, kind=AdamW), _named,
    ],
    "09.evaluate": [evaluate_of, _joined, _of_a_copy, _module_by_module],
    "09.step": [step_of, _by_hand],
    "09.labels": [labels_of, _rows],
}  # fmt: skip
WRONG = {
    "09.batches": [
        (lambda x, y: loader_of(x, y, low=0), "labels_start_at_1"),
        (lambda x, y: loader_of(x, y, shuffle=False), "two epochs have one order"),
        (lambda x, y: loader_of(x, y, drop=False), "last_batch_of_one"),
        (lambda x, y: loader_of(x, y, size=64, drop=False), "expected 8 at most"),
        (_once, "shuffle anew in each"),
        (_apart, "do not belong to their examples"),
        (_with_repeats, "come twice"),
        (lambda x, y: TensorDataset(x, y), "expected a DataLoader"),
        (lambda x, y: loader_of(x[:9], y[:9]), "come in an epoch"),
        (lambda x, y: loader_of(x[:-1], y[:-1], drop=False), "1 of them come in no epoch"),
    ],
    "09.optimizer": [
        (_unfrozen_late, "no group of the optimizer holds 0.weight of f"),
        (lambda model, loss, lr: optimizer_of(model, loss, lr, parts=("f", "head")), "centres of the loss"),
        (lambda model, loss, lr: optimizer_of(model, loss, lr, f=1.0), "rate of the head"),
        (lambda model, loss, lr: optimizer_of(model, loss, lr, head=0.1), "rate for f alone"),
        (lambda model, loss, lr: optimizer_of(model, loss, lr, unfreeze=False), "still (or now) frozen"),
        (lambda model, loss, lr: optimizer_of(model, loss, lr, of_loss=5.0), "rate of the loss"),
        (_twice, "stands in 2 groups"),
        (_head_replaced, "a part was replaced"),
        (_head_drawn_anew, "other values than before"),
        (lambda model, loss, lr: optimizer_of(model, loss, lr, kind=partial(SGD, maximize=True)), "climbs the loss"),
        (lambda model, loss, lr: [model.f], "no optimizer"),
    ],
    "09.evaluate": [
        (lambda m, loader: evaluate_of(m, loader, mode=None), "batches of"),
        (lambda m, loader: evaluate_of(m, loader, grad=True), "gradients_in_evaluation"),
        (lambda m, loader: evaluate_of(m, loader, share=_mean_of_means), "averages the batch means"),
        (lambda m, loader: evaluate_of(m, loader, restore=False), "another mode than before"),
        (_all_to_train, "another mode than before"),
        (_children_alone, "another mode than before"),
        (_unfrozen_after, "requires_grad"),
        (lambda m, loader: evaluate_of(m, loader, share=lambda r, n: sum(r)), "divide by how many"),
        (lambda m, loader: evaluate_of(m, loader, share=lambda r, n: 100 * sum(r) / sum(n)), "percent"),
        (lambda m, loader: evaluate_of(m, loader, share=lambda r, n: 1 - sum(r) / sum(n)), "share of errors"),
    ],
    "09.step": [
        (lambda *a: step_of(*a, zero=False), "gradients_accumulate"),
        (lambda *a: step_of(*a, loss=softmax_first), "probabilities_into_cross_entropy"),
        (lambda *a: step_of(*a, zero=False, early=True), "clip_before_backward"),
        (lambda *a: step_of(*a, cut=None), "not cut to length 1"),
        (lambda *a: step_of(*a, cut=2.0), "another length than 1"),
        (lambda *a: step_of(*a, times=2), "two steps"),
        (lambda *a: step_of(*a, moves=False), "no parameter has moved"),
        (lambda *a: a[0].eval() and step_of(*a), "left in eval mode"),
    ],
    "09.labels": [
        (_by_number, "masked with the padding"),
        (lambda ids, prompt, length: labels_of(ids, prompt * 0, length), "the prompt is learned too"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length + 99), "the padding is learned too"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length, stop=-1), "the end of the answer is left out"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length, start=1), "first token of the answer"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length, start=-1), "one token of the prompt"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length, stop=1), "one token of the padding"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length, none=0), "is −100, not 0"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length).roll(-1, 1), "labels"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length).float(), "whole numbers"),
        (lambda ids, prompt, length: labels_of(ids, prompt, length).int(), "takes torch.int64"),
    ],
}  # fmt: skip
