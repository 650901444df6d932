"""Checkers of notebook 04: one step, the ledger, the rate at which it diverges, momentum, per-sample gradients."""

import torch
import torch.nn.functional as F

from sftlib.checks import Wrong, checker, choice, expect, pair, require
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
            (2 / torch.linalg.eigvals(H).real[0].item(), "eigvals gives the eigenvalues in no order: take the largest"),
            (
                2 / torch.linalg.eigvals(H).real[-1].item(),
                "eigvals gives the eigenvalues in no order: take the largest",
            ),
            (
                2 / (low + high),
                "this α takes the steepest and the flattest direction down equally fast; more is possible",
            ),
            (4 / high, "the half in front is used up by the derivative: one step multiplies by 1 − αλ"),
            (2 / H.trace().item(), "the sum of the curvatures is not the largest of them"),
            (2 / H.diagonal().max().item(), "the diagonal shows the curvatures only when H is diagonal"),
            (2 / H.abs().max().item(), "the largest entry of H is not its largest eigenvalue"),
        ]
        what = f"a quadratic with curvatures {', '.join(f'{v:.3g}' for v in eigenvalues.tolist())}"
        known = [(value, why) for value, why in known if abs(value * high - 2) > 1e-3]
        expect(what, answer(H.clone()), 2 / high, tolerance=1e-3, known=known)


def _hessian(size, seed):
    """A symmetric matrix with eigenvalues from 0.5 up, turned so that none of them stands on the diagonal."""
    draw = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    return q @ torch.diag(torch.linspace(0.5, 7.0 + seed, size, dtype=torch.float64)) @ q.T


@checker("04.momentum", changes=(0, 1))
def _momentum(answer):
    """w, v, gradient (D,), lr, momentum -> (w, v): torch's form, v ← momentum v + gradient, w ← w − lr v"""
    for rates, what in (((0.1, 0.1, 0.1), "one α throughout"), ((0.1, 0.1, 0.02, 0.02), "α made smaller after step 2")):
        got, want = _walk(answer, rates), _walk(_torch_form, rates)
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            known = [(_walk(form, rates)[i], why) for form, why in KNOWN_FORMS]
            expect(f"w after step {i + 1}, {what}", a, b, known=known)


def _walk(form, rates):
    """form, rates (T,) -> the T points that momentum visits on ½ Σ λ w², λ = 1, 4, 9"""
    curvature = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    w, v = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    points = []
    for lr in rates:
        result = pair(form(w.clone(), v.clone(), curvature * w, lr, 0.8), "the pair (w, v)")
        w, v = (torch.as_tensor(part, dtype=torch.float64) for part in result)
        points.append(w)
    return points


def _torch_form(w, v, gradient, lr, momentum):
    v = momentum * v + gradient
    return w - lr * v, v


KNOWN_FORMS = [
    (
        lambda w, v, g, lr, m: (w + m * v - lr * g, m * v - lr * g),
        "this keeps α inside v, as older texts do: the same path as long as α stays, another one once it changes",
    ),
    (lambda w, v, g, lr, m: (w - lr * g, v), "this is a step without momentum: is the new v used, and returned?"),
    (lambda w, v, g, lr, m: (w - lr * (m * v + (1 - m) * g), m * v + (1 - m) * g), "this averages; torch adds up"),
    (lambda w, v, g, lr, m: (w - lr * v, m * v + g), "w moves with the old v; renew v first"),
    (lambda w, v, g, lr, m: (w + lr * (m * v + g), m * v + g), "this climbs: the step goes against v"),
    (lambda w, v, g, lr, m: (w - lr * (g + m * (m * v + g)), m * v + g), "this is Nesterov's form, a step ahead"),
]


@checker("04.per_sample")
def _per_sample(answer):
    """logits (N, K), z (N, D), y (N,) -> (N, K, D): the gradient of each row's cross-entropy for W (K, D)"""
    for n, k, d, seed, size in ((5, 3, 7, 0, 1), (1, 2, 3, 1, 1), (3, 11, 2, 2, 1), (7, 5, 5, 3, 1), (5, 3, 2, 4, 900)):
        draw = torch.Generator().manual_seed(seed)
        logits, z = (torch.randn(n, m, generator=draw, dtype=torch.float64) for m in (k, d))
        y = torch.randint(k, (n,), generator=draw)
        logits = (size * logits + (size - 1) * torch.arange(n)[:, None]).T.contiguous().T  # rows of other heights
        want = torch.stack([_gradient_of_one(*row) for row in zip(logits, z, y, strict=True)])
        p, naive = logits.softmax(1), logits.exp() / logits.exp().sum(1, keepdim=True)
        known = [
            (-want, "the sign is turned round: a gradient points uphill"),
            (want / n, "this is each row's share of the mean; asked for is the gradient of each row's own loss"),
            (want.sum(0), "this is the sum over the rows; keep one gradient a row"),
            (want.mean(0), "this is the mean over the rows; keep one gradient a row"),
            (want.transpose(1, 2), "W has shape (K, D), so each gradient has too"),
            (p[:, :, None] * z[:, None], "the one-hot label is missing"),
            ((logits - F.one_hot(y, k))[:, :, None] * z[:, None], "these are logits where probabilities belong"),
        ]
        got = answer(logits.clone(), z.clone(), y.clone())
        if naive.isnan().any():
            why = "exp of a large logit is infinite: softmax and logsumexp take off each *row's* largest logit first"
            require(not torch.as_tensor(got).isnan().any(), f"{why} (logits up to {logits.max():.0f}: got nan)")
            known = []
        expect(f"N = {n}, K = {k}, D = {d}, logits up to {logits.max():.0f}", got, want, known=known)


def _gradient_of_one(logits, z, y):
    """logits (K,), z (D,), y -> (K, D) by autograd; the offset makes these logits those of W = 0"""
    W = torch.zeros(len(logits), len(z), dtype=z.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(W @ z + logits, y), W)
    return gradient
