"""More set-ups for the doctor: of the loss, its gradients, one update, and the user's own step."""

import torch
import torch.nn.functional as F
from doctor_cases import DATA, LANGUAGE, MODES, PARAMETERS, PICTURES, D, K, plain, setup, vectors, with_data
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW


def ending(*layers, out=K):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 11), nn.Tanh(), nn.Linear(11, out), *layers)


def step_of(model, optimizer, loss, *, before=None, after=None, zero=True, steps=True):
    def step(x, y):
        if zero:
            optimizer.zero_grad()
        if before is not None:
            before(model)
        loss(model(x), y).backward()
        if after is not None:
            after(model)
        if steps:
            optimizer.step()

    return step


def stepped(model, loss=F.cross_entropy, *, lr=0.05, **more):
    optimizer = SGD(model.parameters(), lr=lr)
    return with_data(model, optimizer, step=step_of(model, optimizer, loss, **more))


class Two(nn.Module):
    """A body and a head; ``between`` is done to z"""

    def __init__(self, between=lambda z: z, spare=None):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head, self.between = nn.Linear(D, 11), nn.Linear(11, K), between
        if spare is not None:
            self.add_module(*spare)

    def forward(self, x):
        return self.head(self.between(torch.tanh(self.body(x))))


class Auxiliary(nn.Module):
    def __init__(self, out, used=True):
        super().__init__()
        torch.manual_seed(4)
        self.body, self.fc, self.used = nn.Linear(D, 11), nn.Linear(11, K), used
        self.aux_head = nn.Sequential(nn.ReLU(), nn.Linear(11, out))

    def forward(self, x):
        z = self.body(x)
        return self.fc(z), self.aux_head(z)


def auxiliary(out, weight):
    model = Auxiliary(out)
    optimizer = Adam(model.parameters(), lr=1e-3)

    def step(x, y):
        optimizer.zero_grad()
        a, b = model(x)
        loss = F.cross_entropy(a, y)
        if weight:
            loss = loss + weight * F.cross_entropy(b, y)
        loss.backward()
        optimizer.step()

    return with_data(model, optimizer, step=step)


def one_hot(y):
    return F.one_hot(y, K).float()


def bce(output, y):
    return F.binary_cross_entropy_with_logits(output, one_hot(y))


def probabilities_bce(output, y):
    return F.binary_cross_entropy(output, one_hot(y))


def detached(output, y):
    return F.cross_entropy(output.detach(), y)


def not_finite(output, y):
    return F.cross_entropy(output, y) + (output * 0).sum().log()


def halves(dtype, lr, kind=AdamW):
    model = ending().to(dtype)
    x, y = vectors()
    loader = [(x.to(dtype), y)] * 3
    return setup(model, kind(model.parameters(), lr=lr), train_loader=loader)


def mixed(dtype, *, scaled, clip=None, own=False):
    """A step under autocast; ``clip``: "before" or "after" unscaling; ``own``: gradients cut by hand"""
    model = plain()
    optimizer = SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def clipped():
        if own:
            for p in model.parameters():
                p.grad.data.clamp_(-1, 1)
        else:
            clip_grad_norm_(model.parameters(), 1.0)

    def step(x, y):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(model(x), y)
        (scaler.scale(loss) if scaled else loss).backward()
        if clip == "before":
            clipped()
        if scaled:
            scaler.unscale_(optimizer)
        if clip == "after":
            clipped()
        if scaled:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    return with_data(model, optimizer, step=step)


def plain_autocast(dtype):
    return mixed(dtype, scaled=False)


def clip(model):
    clip_grad_norm_(model.parameters(), 1.0)


def broken(model):
    raise RuntimeError("the shapes do not fit")


def no_batch(zero=True, steps=True):
    """A step of no arguments, with a batch of its own"""
    model, (x, y) = plain(), vectors()
    optimizer = Adam(model.parameters(), lr=1e-3)
    inner = step_of(model, optimizer, F.cross_entropy, zero=zero, steps=steps)
    return setup(model, optimizer, step=lambda: inner(x, y))


LOSSES = {
    "probabilities_into_cross_entropy": (
        lambda: with_data(ending(nn.Softmax(dim=1))),
        lambda: stepped(ending(), lambda out, y: nn.CrossEntropyLoss(label_smoothing=0.1)(out.softmax(1), y)),
        lambda: stepped(ending(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    ),
    "log_probabilities_into_cross_entropy": (
        lambda: with_data(ending(nn.LogSoftmax(dim=1))),
        lambda: with_data(ending(), task_loss=lambda out, y: F.cross_entropy(out.log_softmax(1), y)),
        lambda: with_data(ending(nn.LogSoftmax(dim=1)), task_loss=F.nll_loss),
    ),
    "sigmoid_before_loss": (
        lambda: with_data(ending(nn.Sigmoid()), task_loss=bce),
        lambda: stepped(ending(nn.Sigmoid())),
        lambda: stepped(ending(nn.Sigmoid()), probabilities_bce),
    ),
    "scores_into_nll": (
        lambda: with_data(ending(), task_loss=nn.NLLLoss()),
        lambda: stepped(ending(nn.ReLU()), F.nll_loss),
        lambda: stepped(ending(), lambda out, y: F.nll_loss(out.softmax(1).log(), y)),
    ),
    "loss_without_gradient": (
        lambda: with_data(ending(), task_loss=detached),
        lambda: stepped(ending(), lambda out, y: (out.argmax(1) != y).float().mean()),
        lambda: with_data(ending(), task_loss=F.cross_entropy),
    ),
    "constant_loss": (
        lambda: with_data(ending(), task_loss=lambda out, y: 0 * F.cross_entropy(out, y)),
        lambda: stepped(ending(), lambda out, y: F.cross_entropy(out.clamp(9, 10), y)),
        lambda: stepped(ending()),
    ),
    "gradient_does_not_reach": (
        lambda: with_data(Two(torch.Tensor.detach)),
        lambda: stepped(Two(lambda z: torch.tensor(z.tolist()))),
        lambda: stepped(Two()),
    ),
    "part_never_used": (
        lambda: with_data(Two(spare=("classifier", nn.Linear(11, 2)))),
        lambda: stepped(Two(spare=("fc", nn.Sequential(nn.Linear(11, 5), nn.Linear(5, 2))))),
        lambda: with_data(Two(spare=("fc", nn.Linear(11, 2).requires_grad_(False)))),
    ),
    "auxiliary_head_left": (
        lambda: auxiliary(17, 0.3),
        lambda: auxiliary(K, 0),
        lambda: auxiliary(K, 0.3),
    ),
    "non_finite_loss": (
        lambda: with_data(ending(), task_loss=not_finite),
        lambda: stepped(ending(), lambda out, y: F.cross_entropy(out, y) / (y < 0).sum()),
        lambda: stepped(ending()),
    ),
    "learning_rate_too_high": (
        lambda: with_data((m := ending()), SGD(m.parameters(), lr=1000.0)),
        lambda: stepped(ending(), lr=300.0),
        lambda: stepped(ending(), lr=0.1),
    ),
    "learning_rate_changes_nothing": (
        lambda: with_data((m := ending()), SGD(m.parameters(), lr=1e-9)),
        lambda: with_data((m := ending()), AdamW(m.parameters(), lr=1e-10)),
        lambda: with_data((m := ending()), AdamW(m.parameters(), lr=2e-5)),
    ),
    "updates_vanish_in_half_precision": (
        lambda: halves(torch.bfloat16, 1e-5),
        lambda: halves(torch.bfloat16, 1e-4, SGD),
        lambda: halves(torch.float32, 1e-5),
    ),
}

STEPS = {
    "grad_scaler_with_bfloat16": (
        lambda: mixed(torch.bfloat16, scaled=True),
        lambda: mixed(torch.bfloat16, scaled=True, clip="after"),
        lambda: plain_autocast(torch.bfloat16),
    ),
    "float16_without_scaler": (
        lambda: plain_autocast(torch.float16),
        lambda: mixed(torch.float16, scaled=False, clip="after"),
        lambda: mixed(torch.float16, scaled=True),
    ),
    "clip_before_unscale": (
        lambda: mixed(torch.float16, scaled=True, clip="before"),
        lambda: mixed(torch.float16, scaled=True, clip="before", own=True),
        lambda: mixed(torch.float16, scaled=True, clip="after"),
    ),
    "clip_before_backward": (
        lambda: stepped(ending(), before=clip, zero=False),
        lambda: stepped(ending(), before=lambda m: m[0].weight.grad is not None and clip(m), zero=False),
        lambda: stepped(ending(), after=clip),
    ),
    "gradients_accumulate": (
        lambda: stepped(ending(), zero=False),
        lambda: no_batch(zero=False),
        no_batch,
    ),
    "optimizer_never_steps": (
        lambda: stepped(ending(), steps=False),
        lambda: no_batch(steps=False),
        no_batch,
    ),
    "step_fails": (
        lambda: stepped(ending(), before=broken),
        lambda: stepped(ending(out=2), lambda out, y: F.cross_entropy(out, y.float())),
        lambda: stepped(ending()),
    ),
}

CASES = PARAMETERS | MODES | DATA | PICTURES | LANGUAGE | LOSSES | STEPS
