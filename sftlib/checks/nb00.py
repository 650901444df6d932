"""Checkers of notebook 00."""

import torch

from sftlib.checks import Wrong, checker, expect, require

# N, K, seed: chosen so that the first tells all mistakes apart; N = K lets comparisons of the wrong things broadcast
CASES = ((17, 5, 28), (7, 3, 1), (5, 5, 2), (1, 2, 3), (11, 2, 4))


@checker("00.accuracy")
def _accuracy(answer):
    """logits (N, K), y (N,) -> the share of rows whose largest logit stands at the label, in [0, 1]"""
    for n, k, seed in CASES:
        logits, y = _case(n, k, seed)
        best = [max(range(k), key=row.__getitem__) for row in logits.tolist()]
        right = sum(b == label for b, label in zip(best, y.tolist(), strict=True))
        try:
            got = answer(logits.clone(), y.clone())
        except RuntimeError as error:
            if "size of tensor" not in str(error):
                raise
            why = "argmax(dim=1) gives one class for each; dim=0 looks along the pictures"
            raise Wrong(f"the {n} labels are compared with something else than {n} classes: {why} ({error})") from None
        expect(f"{right} of {n} pictures right, {k} classes", got, right / n, known=_mistakes(logits, y, right))
    _does_not_depend_on_scale(answer)
    _keeps_large_and_close_apart(answer)


def _case(n, k, seed):
    """Logits (n, k) without ties and labels (n,), two thirds of them right; all logits negative in odd cases."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=draw) - 4.0 * (seed % 2)
    best = logits.argmax(1)
    wrong = torch.arange(n) % 3 == 1
    step = 1 + torch.arange(n) // 3 % max(k - 1, 1)  # wrong in every way, not always by one class
    return logits, torch.where(wrong, (best + step) % k, best)


def _mistakes(logits, y, right):
    n, k = logits.shape
    return [
        (100 * right / n, "this is in percent; a share lies between 0 and 1"),
        (right, "this is the number of right ones; divide by how many pictures there are"),
        (right / k, "this divides by the number of classes; divide by the number of pictures"),
        (right / (n * k), "this divides by all logits, N times K; divide by the number of pictures"),
        (1 - right / n, "this is the share of errors"),
        (float((logits.argmax(1) + 1).eq(y).double().mean()), "classes are counted from 0, as argmax does"),
        (float(logits.abs().argmax(1).eq(y).double().mean()), "a negative logit is small, however long"),
        (
            float(logits.argmin(1).eq(y).double().mean()),
            "this looks for the smallest logit; the prediction is the largest",
        ),
        (
            float((logits.softmax(1).amax(1) > 0.5).logical_and(logits.argmax(1) == y).double().mean()),
            "this counts only predictions above one half; the largest of many classes can be smaller",
        ),
        (
            float(logits.amax(1).eq(y).double().mean()),
            "none is counted: compare the index of the largest logit of each row with the label; // cuts shares off",
        ),
    ]


def _keeps_large_and_close_apart(answer):
    """Logits so large that exp overflows, in double precision and not contiguous; logits that 16 bits cannot tell"""
    logits, y = _case(11, 3, 6)
    large, want = (2000 * logits.double()).T.contiguous().T, float((logits.argmax(1) == y).double().mean())
    naive = (large.exp() / large.exp().sum(1, keepdim=True)).argmax(1)
    why = "exp of a large logit is infinite; the largest logit is also the most probable one, so leave exp out"
    got = answer(large.clone(), y.clone())
    expect("logits of some thousands", got, want, known=[(float((naive == y).double().mean()), why)])
    expect("logits that differ by some thousandths", answer(500 + 0.01 * logits, y.clone()), want)


def _does_not_depend_on_scale(answer):
    logits, y = _case(13, 3, 4)
    before, after = float(answer(logits.clone(), y)), float(answer(0.5 * logits - 2.0, y))
    why = f"halving and shifting all logits changed it from {before:.4g} to {after:.4g}; only their order matters"
    require(abs(before - after) < 1e-6, why)
