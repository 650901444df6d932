"""Checkers of notebook 04: one step, the ledger, the rate at which it diverges, backward of two layers."""

import numpy as np
import torch
import torch.nn.functional as F

from sftlib.checks import Wrong, checker, choice, expect, require
from sftlib.losses import cosine_prototype

HEARD = ("none", "L_f", "L_g", "both")


QUESTIONS = {
    "joint, f": "which losses are computed from z, that is, after f?",
    "joint, g": "does the formula of L_f contain g?",
    "stop-gradient, f": "is there a way back from the logits to f when g reads z.detach()?",
    "stop-gradient, g": "detach cuts the way from g to f; does it cut the way from the loss to g?",
    "f frozen, f": "a frozen f requires no gradient; from which loss could it get one?",
    "f frozen, g": "g still trains; in which loss does it appear?",
    "joint, learned prototypes": "the prototypes are parameters; in which loss do they appear?",
}


@checker("04.step", in_place=True, changes=(0,))
def _step(answer):
    """parameters (list of leaves), loss (scalar), lr -> nothing; every p becomes p − lr ∂loss/∂p"""
    w, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([1.0, -2.0, 3.0], [0.5]))
    want_w, want_b = w.detach().clone(), b.detach().clone()
    previous = torch.zeros_like(want_w)
    for number, lr in ((1, 0.1), (2, 0.03)):
        before, gradient = want_w, 2 * want_w * (1 + want_b)  # of loss = (1 + b) Σ w²
        want_w, want_b = want_w - lr * gradient, want_b - lr * want_w.square().sum()
        try:
            answer([w, b], ((1 + b) * w * w).sum(), lr)
        except (TypeError, AttributeError) as error:
            if "NoneType" not in str(error):
                raise
            raise Wrong("p.grad is None: `loss.backward()` fills it, and comes before the update") from None
        known = _known_steps(before, gradient, previous, lr)
        expect(f"the first parameter after step {number}", w, want_w, known=known)
        expect(f"the second parameter after step {number}", b, want_b)
        require(w.requires_grad and w.is_leaf, "after the step the parameter requires no gradient any more")
        previous = gradient


def _known_steps(before, gradient, previous, lr):
    return [
        (before, "nothing moved: change the parameter itself, in place (`p = p - …` makes a new tensor)"),
        (before + lr * gradient, "this climbs: the step goes against the gradient"),
        (before - gradient, "this leaves out the learning rate"),
        (before - lr * (gradient + previous), "old gradients were added: `backward` adds to p.grad, so clear it"),
    ]


@checker("04.ledger")
def _ledger(answer):
    """dict: situation -> which loss moves that part, one of "none", "L_f", "L_g", "both"; compared with autograd"""
    answer = answer() if callable(answer) else answer
    require(isinstance(answer, dict), f"got a {type(answer).__name__}, expected the dict of the exercise, filled in")
    missing = [key for key in QUESTIONS if key not in answer]
    require(not missing, f"these lines are missing: {', '.join(missing)}")
    answer = {key: choice(value, HEARD, repr(key)) for key, value in answer.items()}
    truth = _who_hears_what()
    wrong = [key for key in QUESTIONS if answer[key] != truth[key]]
    if wrong:
        raise Wrong(f"{len(wrong)} of {len(truth)} lines are wrong, the first is {wrong[0]!r}: {QUESTIONS[wrong[0]]}")


def _who_hears_what():
    """situation, part -> "none", "L_f", "L_g" or "both", found by differentiating a small model"""
    parts = _small_model()
    (A, B, mu), y = parts, torch.tensor([0, 1, 2, 1, 0])
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    truth = {}
    for situation, f, cut in (("joint", A, False), ("stop-gradient", A, True), ("f frozen", A.detach(), False)):
        z = (x @ f.T).tanh()
        losses = {
            "L_f": cosine_prototype(z, y, mu),
            "L_g": F.cross_entropy((z.detach() if cut else z) @ B.T, y),
        }
        for name, part in (("f", A), ("g", B), ("learned prototypes", mu)):
            heard = [loss for loss, value in losses.items() if _moves(value, part)]
            truth[f"{situation}, {name}"] = "both" if len(heard) == 2 else (heard or ["none"])[0]
    return {key: truth[key] for key in QUESTIONS}


def _small_model():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in ((5, 7), (3, 5), (3, 5))]


def _moves(loss, part):
    if not loss.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(loss, part, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.abs().max() > 0)


@checker("04.largest_rate")
def _largest_rate(answer):
    """H (D, D) symmetric, positive -> the rate above which gradient descent on ½ wᵀ H w diverges"""
    turned = [_hessian(size, seed) for size, seed in ((5, 1), (2, 0), (3, 2))]
    straight = [torch.tensor(v, dtype=torch.float64).diag() for v in ([0.5, 7.0, 3.0], [2.0, 1.0], [1.5])]
    mixed = torch.block_diag(_hessian(2, 3), straight[0] * 3, straight[2])  # the largest neither first nor last
    for H in (*turned, *straight, mixed):
        eigenvalues = torch.linalg.eigvalsh(H)
        low, high = eigenvalues[0].item(), eigenvalues[-1].item()
        known = [
            (1 / high, "this α is the fastest along the steepest direction; twice as much still does not diverge"),
            (2 / low, "this looks at the flattest direction; the steepest one diverges first"),
            (1 / low, "this looks at the flattest direction; the steepest one diverges first"),
            (high, "this is the largest curvature, not a rate"),
            (high / 2, "the fraction is upside down: the steeper, the smaller the rate"),
            (2 / eigenvalues.mean().item(), "the mean curvature sets no limit; the steepest direction diverges first"),
            (2 / torch.linalg.eigvals(H).real[0].item(), "eigvals gives the eigenvalues in no order: take the largest"),
            (
                2 / torch.linalg.eigvals(H).real[-1].item(),
                "eigvals gives the eigenvalues in no order: take the largest",
            ),
            (
                2 / (low + high),
                "this α takes the steepest and the flattest direction down equally fast; more is possible",
            ),
            (4 / high, "the half in front is used up by the derivative: one step multiplies by 1 − ακ"),
            (2 / H.trace().item(), "the sum of the curvatures is not the largest of them"),
            (2 / H.diagonal().max().item(), "the diagonal shows the curvatures only when H is diagonal"),
            (2 / H.abs().max().item(), "the largest entry of H is not its largest eigenvalue"),
        ]
        what = f"a quadratic with curvatures {', '.join(f'{v:.3g}' for v in eigenvalues.tolist())}"
        known = [(value, why) for value, why in known if abs(value * high - 2) > 1e-3]
        expect(what, answer(H.clone()), 2 / high, tolerance=1e-3, known=known)


def _hessian(size, seed):
    """A symmetric matrix with eigenvalues from 0.6 up, turned so that none of them stands on the diagonal."""
    draw = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(np.geomspace(0.6, 7.0 + seed, size))) @ q.T


NAMES = ("A", "a", "B", "b")


@checker("04.backward")
def _backward(answer):
    """x (N, C), y (N,), A, a, B, b -> the gradients of the mean cross-entropy of B max(0, A x + a) + b by A, a, B, b"""
    for n, c, d, k, seed, size in ((7, 5, 3, 2, 0, 1), (1, 3, 7, 5, 1, 1), (11, 2, 5, 3, 2, 1), (5, 5, 5, 5, 3, 1),
                                   (5, 3, 2, 7, 4, 300)):  # fmt: skip
        draw = torch.Generator().manual_seed(seed)
        shapes = ((n, c), (d, c), (d,), (k, d), (k,))
        x, *parts = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
        y, parts[2] = torch.randint(k, (n,), generator=draw), size * parts[2]
        got = answer(x.clone(), y.clone(), *(part.clone() for part in parts))
        require(
            isinstance(got, tuple | list) and len(got) == 4, "expected four gradients: by A, a, B and b, in this order"
        )
        case = f"N = {n}, C = {c}, D = {d}, K = {k}"
        if size > 1:
            why = "exp of a large logit is infinite: softmax takes off each row's largest logit first"
            require(not any(torch.as_tensor(g).isnan().any() for g in got), f"{why} ({case}: got nan)")
        wants, slips = _gradients(x, y, *parts), [(_gradients(x, y, *parts, **how), why) for how, why in SLIPS]
        for i, (name, part) in enumerate(zip(NAMES, got, strict=True)):
            known = [(wrong[i], why) for wrong, why in slips if not torch.allclose(wrong[i], wants[i])]
            expect(f"∂L/∂{name}, {case}", part, wants[i], known=known)


def _gradients(x, y, *parts, over=None, slope=None, label=1.0, sign=1.0, offsets=1.0, rows=torch.sum):
    """By autograd; with a slip where one is named: over(N), slope(z) for the ReLU's, the label's share, …"""
    A, a, B, b = (part.clone().requires_grad_() for part in parts)
    before = x @ A.T + offsets * a
    z = _Slope.apply(before, slope) if slope else before.clamp(min=0)
    logits = z @ B.T + offsets * b
    chosen = logits.gather(1, y[:, None])[:, 0]
    loss = (logits.logsumexp(1) - label * chosen).sum() / (over(len(y)) if over else len(y))
    found = torch.autograd.grad(sign * loss, (A, a, B, b), allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parts, strict=True)]
    if rows is torch.mean:
        found[1], found[3] = found[1] / len(y), found[3] / len(y)
    return found


class _Slope(torch.autograd.Function):
    """max(0, before), with a wrong derivative on the way back"""

    @staticmethod
    def forward(ctx, before, slope):
        z = before.clamp(min=0)
        ctx.save_for_backward(slope(z))
        return z

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0], None


SLIPS = [
    (
        {"over": lambda n: 1},
        "this is the gradient of the sum over the rows; the loss is their mean, so divide by N once",
    ),
    ({"over": lambda n: n * n}, "this divides by N twice"),
    ({"slope": torch.ones_like}, "the derivative of max(0, ·) is missing: 0 wherever z is not positive"),
    ({"slope": lambda z: 1 - z**2}, "1 − z² is the derivative of tanh; here it is max(0, ·)"),
    ({"slope": lambda z: z}, "the derivative of max(0, ·) is 1 where it is positive, not z itself"),
    ({"label": 0.0}, "the error is p − Y: what was said minus what is right; Y is missing"),
    ({"sign": -1.0}, "the sign is turned round: a gradient points uphill"),
    ({"offsets": 0.0}, "the offsets a and b are missing in the forward pass"),
    (
        {"rows": torch.mean},
        "an offset appears in every row with the factor 1: a sum over the rows; E holds the 1/N already",
    ),
]
