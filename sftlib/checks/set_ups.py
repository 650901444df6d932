"""What the checkers of notebook 09 measure by: small networks and data, and what typical mistakes give."""

import math

import torch
import torch.nn.functional as F
from torch import nn

END = 2  # number of the token that ends a turn, and of the padding


def draw(seed: int) -> torch.Generator:
    """A generator of its own"""
    return torch.Generator().manual_seed(seed)


def blobs(n: int, K: int, seed: int):
    """-> x (n, 5), a cloud for each class, in the order of the classes; y (n,) from 1 to K"""
    y = (torch.arange(n) * K // n) + 1
    centres = 4 * torch.eye(5)[:K]
    return centres[y - 1] + 0.3 * torch.randn(n, 5, generator=draw(seed)), y


def learned(loader, x, y, K: int) -> float:
    """-> the share that a linear network has right after 20 epochs"""
    model = nn.Linear(5, K)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        for given, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(given), labels).backward()
            optimizer.step()
    return (model(x).argmax(1) == y).double().mean().item()


class Centres(nn.Module):
    """z (N, D), y (N,) -> mean squared distance to the centre of the class; the centres are parameters"""

    def __init__(self, K: int, D: int):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(K, D))

    def forward(self, z, y):
        return (z - self.centres[y]).square().sum(1).mean()


class Cut(nn.Module):
    """A network of two parts, f and head"""

    def __init__(self, K: int):
        super().__init__()
        self.f, self.head = nn.Sequential(nn.Linear(5, 11), nn.Tanh()), nn.Linear(11, K)

    def cut(self, x):
        """-> z, logits"""
        z = self.f(x)
        return z, self.head(z)

    def forward(self, x):
        return self.cut(x)[1]


@torch.no_grad()
def share_right(model, batches) -> float:
    """The share of right answers in eval mode; the model stays in it"""
    model.eval()
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / sum(len(y) for _, y in batches)


@torch.no_grad()
def faulty_shares(model, batches) -> list[tuple[float, str]]:
    """Values that typical mistakes give"""
    model.eval()
    right = [int((model(x).argmax(1) == y).sum()) for x, y in batches]
    n = [len(y) for _, y in batches]
    means = [a / b for a, b in zip(right, n, strict=True)]
    return [
        (sum(means) / len(means), "this averages the batch means; the last batch may be smaller"),
        (sum(right), "this is the number of right ones; divide by how many there are"),
        (100 * sum(right) / sum(n), "this is in percent; a share lies between 0 and 1"),
        (1 - sum(right) / sum(n), "this is the share of errors"),
        (means[-1], "this is the last batch alone"),
        (sum(right) / len(n), "this divides by the number of batches"),
    ]


def network(seed: int, scale: float) -> nn.Module:
    """x (N, 5) -> logits (N, 3), the last layer larger by ``scale``"""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    model[2].weight.data *= scale
    return model


def after_steps(model, x, y, *, times=2, lr=0.5, softmax=False, clip=1.0, zero=True, early=False) -> torch.Tensor:
    """The weights after some steps of the naive loop, with or without one of the faults"""
    grads = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(times):
        out = model(x)
        loss = F.cross_entropy(out.softmax(1) if softmax else out, y)
        new = torch.autograd.grad(loss, list(model.parameters()))
        if early:
            grads = shortened(grads, clip)
        grads = [b if zero else a + b for a, b in zip(grads, new, strict=True)]
        used = grads if early else shortened(grads, clip)
        with torch.no_grad():
            for p, g in zip(model.parameters(), used, strict=True):
                p -= lr * g
        grads = used if not early else grads
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def shortened(grads, most: float):
    """Gradients, together no longer than ``most``"""
    norm = torch.sqrt(sum(g.square().sum() for g in grads))
    return [g * min(1.0, most / (float(norm) + 1e-6)) for g in grads] if most < math.inf else list(grads)


def faulty_steps(seed, scale, x, y) -> list[tuple[torch.Tensor, str]]:
    """Weights that typical mistakes lead to, and the mistakes"""

    def made(**fault):
        return after_steps(network(seed, scale), x, y, **fault)

    return [
        (made(clip=math.inf), "gradients are not cut to length 1"),
        (made(clip=2.0), "gradients are cut to another length than 1"),
        (made(clip=0.1), "gradients are cut to another length than 1"),
        (made(times=4), "each call makes two steps"),
        (made(lr=-0.5), "this climbs the loss"),
    ]


class Talker(nn.Module):
    """A language model in the form of transformers' own, small; it shifts the labels itself"""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": END})()
        self.embedding, self.out = nn.Embedding(31, 11), nn.Linear(11, 31)

    def forward(self, input_ids, labels=None):
        logits, loss = self.out(self.embedding(input_ids)), None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return type("Output", (), {"logits": logits, "loss": loss})()


def mislabelled(ids, prompt, length, want) -> list[tuple[torch.Tensor, str]]:
    """Labels that typical mistakes give, and the mistakes"""
    at = torch.arange(ids.shape[1])
    inside, spoken = at < length[:, None], at >= prompt[:, None]
    none = torch.full((len(ids), 1), -100)
    ends = (ids == END) & spoken
    return [
        (ids.masked_fill(ids == END, -100), "every end is masked with the padding, for both have one number; and the "
         "prompt is learned"),
        (want.masked_fill(ids == END, -100), "the end of the answer is masked with the padding: it is never learned"),
        (want.masked_fill(at == length[:, None] - 1, -100), "the end of the answer is left out: length counts it"),
        (ids.masked_fill(~inside, -100), "the prompt is learned too"),
        (ids.masked_fill(~spoken, -100), "the padding is learned too, as so many ends"),
        (ids, "nothing is masked"),
        (torch.cat([want[:, 1:], none], dim=1), "the labels are shifted, and the model shifts them once more"),
        (torch.cat([none, want[:, :-1]], dim=1), "the labels are shifted the other way"),
        (ids.masked_fill(~inside | (at < prompt[:, None] - 1), -100), "one token of the prompt is learned"),
        (ids.masked_fill(~inside | (at <= prompt[:, None]), -100), "the first token of the answer is left out"),
        (ids.masked_fill(~spoken | (at > length[:, None]), -100), "one token of the padding is learned"),
        (want.masked_fill(want == -100, 0), "no target is −100, not 0"),
        (ids.masked_fill(inside & spoken, -100), "the answer is masked, and the rest is learned"),
        (want.masked_fill(ends & (at < length[:, None] - 1), -100), "an end within the answer is masked"),
    ]  # fmt: skip
