"""Checkers of notebook 11."""

import math

import torch
import torch.nn.functional as F

from sftlib.checks import checker, expect, numeric, require

# N, T, V, seed; sizes are primes, so that no sum over the wrong axis fits
CASES = ((3, 7, 11, 0), (2, 13, 5, 1), (1, 5, 17, 2))


def _conversation(N, T, V, seed):
    """logits (N, T, V), ids (N, T), counts (N, T): answers of unequal lengths, the first token never counted"""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(N, T, V, generator=draw, dtype=torch.float64)
    ids = torch.randint(V, (N, T), generator=draw)
    lengths = [2 + (i * 3 + seed) % (T - 3) for i in range(N)]
    counts = torch.stack([torch.arange(T) >= T - n for n in lengths])
    return logits, ids, counts


@checker("11.answer_loss")
def _answer_loss(answer):
    """logits (N, T, V), ids (N, T), counts bool (N, T) -> the mean of -log p(token) over the tokens that count"""
    for N, T, V, seed in CASES:
        logits, ids, counts = _conversation(N, T, V, seed)
        log_p = logits.log_softmax(2)
        rows = [[-log_p[i, t - 1, ids[i, t]].item() for t in range(1, T) if counts[i, t]] for i in range(N)]
        want = sum(map(sum, rows)) / sum(map(len, rows))
        got = answer(logits.clone(), ids.clone(), counts.clone())
        expect(
            f"{N} rows of {T} tokens, {int(counts.sum())} count", got, want, known=_of_a_loss(log_p, ids, counts, rows)
        )
    _reads_only_what_counts(answer)


def _of_a_loss(log_p, ids, counts, rows):
    n, k = sum(map(len, rows)), counts
    own = -log_p.gather(2, ids[..., None])[..., 0]  # at t for t
    later = -log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0]  # at t - 1 for t
    early = -log_p[:, 1:].gather(2, ids[:, :-1, None])[..., 0]
    plain = log_p.exp().logsumexp(2)  # softmax of what is softmax already
    twice = -(log_p.exp()[:, :-1].gather(2, ids[:, 1:, None])[..., 0] - plain[:, :-1])
    total = sum(map(sum, rows))
    return [
        ((own * k).sum() / n, "the logits at t predict the token at t + 1: shift one of them by one place"),
        ((early * k[:, 1:]).sum() / n, "this is shifted the wrong way: the logits at t - 1 predict the token at t"),
        ((later * k[:, :-1]).sum() / k[:, :-1].sum(), "the tokens are shifted, and `counts` is not"),
        (later.mean(), "this is the mean over all tokens; those of the prompt do not count"),
        ((later * k[:, 1:]).mean(), "this divides by all tokens; divide by those that count"),
        (total / len(rows), "this divides by the rows; divide by the tokens that count"),
        (sum(sum(r) / len(r) for r in rows) / len(rows), "this is the mean of the rows' means: a short answer's tokens "
         "then weigh more than a long one's"),
        (total, "this is the sum; divide by the number of tokens that count"),
        (-total / n, "the sign: a loss is minus the logarithm"),
        ((twice * k[:, 1:]).sum() / n, "softmax is taken twice"),
        ((later.neg().exp() * k[:, 1:]).sum() / n, "this is the mean probability; take the logarithm, with a minus"),
        ((later[k[:, 1:]] / math.log(2)).mean(), "this is in bits; nats take the natural logarithm"),
        ((later * ~k[:, 1:]).sum() / (~k[:, 1:]).sum(), "these are the tokens that do not count"),
    ]  # fmt: skip


def _reads_only_what_counts(answer):
    """Logits of a hundred thousand overflow exp; what is predicted where nothing counts changes nothing"""
    logits, ids, counts = _conversation(3, 7, 11, 5)
    large = float(answer(1e5 * logits, ids.clone(), counts.clone()))
    why = f"logits of some hundred thousand give {large}: let log_softmax do the division"
    want = F.cross_entropy(1e5 * logits[:, :-1][counts[:, 1:]], ids[:, 1:][counts[:, 1:]]).item()
    require(math.isfinite(large) and abs(large - want) < 1e-3 * want, why)
    before = float(answer(logits.clone(), ids.clone(), counts.clone()))
    other = logits.clone()
    other[:, -1] += torch.arange(11, dtype=torch.float64)  # nothing follows the last token
    after = float(answer(other, ids.clone(), counts.clone()))
    why = f"other logits at the last place, behind which no token stands, changed it from {before:.4g} to {after:.4g}"
    require(abs(before - after) < 1e-6, why)


@checker("11.step_loss")
def _step_loss(answer):
    """means (B,), counts (B,) of micro-batches -> the mean over all tokens; a part without a token counts nothing"""
    nan = math.nan
    cases = (((0.7, 0.5, 2.0), (11, 13, 3)), ((0.3, 5.0), (17, 2)), ((1.7,), (7,)), ((0.4, nan, 1.9), (5, 0, 2)))
    for means, counts in cases:
        pairs = [(m, n) for m, n in zip(means, counts, strict=True) if n]
        total, tokens = sum(m * n for m, n in pairs), sum(n for _, n in pairs)
        m, n = torch.tensor(means, dtype=torch.float64), torch.tensor(counts)
        of_means = sum(v for v, _ in pairs) / len(pairs)
        known = [] if len(pairs) == 1 else [
            (of_means, "this averages the means of the parts: a token of a short part then weighs more"),
            (total, "this is the sum; divide by how many tokens there are"),
            (total / len(means), "this divides by the parts; divide by the tokens"),
            (sum(v for v, _ in pairs), "this adds up means; a mean times its count is a sum"),
        ]  # fmt: skip
        got = answer(m, n)
        why = "a part without a token has the mean 0/0, NaN, and NaN times 0 is NaN: leave it out"
        require(not bool(numeric("the loss", got).isnan().any()), why)
        expect(f"parts of {list(counts)} tokens", got, total / tokens, known=known)


@checker("11.temperature")
def _temperature(answer):
    """logits (V,), τ >= 0 -> the probabilities (V,) that a token is drawn with; τ = 0: the most probable for certain"""
    for values in ([0.3, -1.2, 2.0, 1.1, 0.9], [2.3, 1.7, -0.4, 0.8, 2.1, -3.0, 1.2]):
        logits = torch.tensor(values, dtype=torch.float64)
        for tau in (1.0, 0.5, 2.0):
            e = [math.exp(v / tau) for v in values]
            want = torch.tensor([v / sum(e) for v in e], dtype=torch.float64)
            known = [(v, why) for v, why in _of_tau(logits, tau) if not torch.allclose(v.double(), want, atol=1e-4)]
            expect(f"τ = {tau:g}", answer(logits.clone(), tau), want, known=known)
        got, highest = answer(logits.clone(), 0.0), torch.eye(len(values))[values.index(max(values))]
        why = "dividing by τ = 0 gives no probabilities: there the most probable token has 1, for certain"
        require(not bool(numeric("p", got).isnan().any()), why)
        known = [(logits.softmax(0), f"this is softmax at τ = 1; {why}"),
                 (torch.full_like(highest, 1 / len(values)), f"all tokens are alike at a large τ; {why}")]  # fmt: skip
        expect("τ = 0", got, highest, known=known)
        got = answer(1000 * logits, 0.5)
        expect("logits of thousands", got, highest)


def _of_tau(logits, tau):
    p = logits.softmax(0)
    return [
        ((logits * tau).softmax(0), "logits are divided by τ, so that a large τ makes them alike"),
        (p / tau, "the logits are divided by τ, before softmax"),
        (p ** (1 / tau), "these do not add up to 1"),
        (p, "τ is not used"),
        ((logits / tau).exp(), "these do not add up to 1"),
        ((logits / tau).log_softmax(0), "these are logarithms of probabilities"),
    ]
