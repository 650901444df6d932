"""More answers to the exercises of notebook 10, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _pool(h, mask, *, keep=lambda h, m: h * m, add=lambda k: k.sum(1), over=lambda m, h: m.sum(1)):
    m = mask.unsqueeze(-1).to(h.dtype)
    return add(keep(h, m)) / over(m, h)


def _po(**slip):
    return lambda h, mask: _pool(h, mask, **slip)


def _pool_numpy(h, mask):
    h, m = h.numpy(), mask.numpy()
    return np.stack([h[i][m[i]].mean(axis=0) for i in range(len(h))])


def _pool_counting(h, mask):
    z = torch.zeros(h.shape[0], h.shape[2], dtype=h.dtype)
    for n in range(h.shape[0]):
        count = 0
        for t in range(h.shape[1]):
            if mask[n, t]:
                z[n] += h[n, t]
                count += 1
        z[n] /= count
    return z


def _pool_in_place(h, mask):
    h[~mask] = 0
    return h.sum(1) / mask.sum(1, keepdim=True)


def _weigh(counts, *, df=lambda c: (c > 0).sum(0), idf=lambda n, d: ((1 + n) / (1 + d)).log() + 1, tf=lambda c: c,
           norm=lambda x: x / x.square().sum(1, keepdim=True).sqrt()):  # fmt: skip
    return norm(tf(counts) * idf(len(counts), df(counts)))


def _we(**slip):
    return lambda counts: _weigh(counts, **slip)


def _weigh_numpy(counts):
    c = counts.numpy()
    x = c * (np.log1p(len(c)) - np.log1p((c > 0).sum(0)) + 1)
    return x / np.linalg.norm(x, axis=1)[:, None]


def _weigh_sklearn(counts):
    from sklearn.feature_extraction.text import TfidfTransformer

    return TfidfTransformer().fit_transform(counts.numpy()).toarray()


def _low(W, A, B, alpha, *, scale=lambda a, A, B: a / A.shape[0], product=lambda A, B: B @ A, join=lambda W, d: W + d):
    return join(W, scale(alpha, A, B) * product(A, B))


def _lo(**slip):
    return lambda W, A, B, alpha: _low(W, A, B, alpha, **slip)


def _low_by_loop(W, A, B, alpha):
    new = W.clone()
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            new[i, j] += alpha / len(A) * sum(B[i, k] * A[k, j] for k in range(len(A)))
    return new


def _leave(words, score, *, rest=lambda w, i: w[:i] + w[i + 1 :], join=" ".join, sign=lambda a, b: a - b,
           first=lambda w, score: score(" ".join(w)), places=lambda w: range(len(w))):  # fmt: skip
    return [sign(first(words, score), score(join(rest(words, i)))) for i in places(words)]


def _le(**slip):
    return lambda words, score: _leave(words, score, **slip)


def _leave_enumerate(words, score):
    whole, found = score(" ".join(words)), []
    for i, _ in enumerate(words):
        found.append(whole - score(" ".join(w for j, w in enumerate(words) if j != i)))
    return np.array(found)


def _leave_pop(words, score):
    text, found = " ".join(words), []
    for i in range(len(words)):
        rest = text.split()
        rest.pop(i)
        found.append(score(text) - score(" ".join(rest)))
    return tuple(found)


def _removes_for_good(words, score):
    whole, found = score(" ".join(words)), []
    for word in list(words):
        words.remove(word)
        found.append(whole - score(" ".join(words)))
    return found


def _share(lengths, batch_size, *, order=lambda n: n, group=lambda n, s: n.split(s), high=lambda b, n: b.max(),
           size=lambda b, s: len(b), result=lambda real, places: 1 - real / places):  # fmt: skip
    batches = group(order(lengths), batch_size)
    real, places = sum(b.sum() for b in batches), sum(size(b, batch_size) * high(b, lengths) for b in batches)
    return result(real, places)


def _sh(**slip):
    return lambda lengths, batch_size: _share(lengths, batch_size, **slip)


def _share_numpy(lengths, batch_size):
    n = lengths.numpy()
    padded = [np.full(len(b), b.max()) - b for b in np.split(n, range(batch_size, len(n), batch_size))]
    return np.concatenate(padded).sum() / (np.concatenate(padded).sum() + n.sum())


def _share_masks(lengths, batch_size):
    masks = [torch.arange(int(b.max())) < b[:, None] for b in lengths.split(batch_size)]
    return sum((~m).sum() for m in masks) / sum(m.numel() for m in masks)


RIGHT = {
    "10.masked_mean": [
        _pool,
        _pool_numpy,
        _pool_counting,
        lambda h, mask: (mask.to(h.dtype).unsqueeze(1) @ h).squeeze(1) / mask.sum(1, keepdim=True),
        lambda h, mask: torch.bmm(F.normalize(mask.to(h.dtype), p=1, dim=1)[:, None], h)[:, 0],
        lambda h, mask: [h[i, mask[i]].mean(dim=0) for i in range(len(h))],
    ],
    "10.tfidf": [
        _weigh,
        _weigh_numpy,
        _weigh_sklearn,
        lambda c: F.normalize(c * (1 - ((1 + c.bool().sum(0)) / (1 + c.shape[0])).log()), dim=1),
        lambda c: torch.stack([row / row.norm() for row in c * (torch.log((len(c) + 1) / (c.gt(0).sum(0) + 1)) + 1)]),
    ],
    "10.merge": [
        _low,
        _low_by_loop,
        lambda W, A, B, alpha: W + (B * (alpha / A.shape[0])).matmul(A),
        lambda W, A, B, alpha: W.numpy() + alpha / A.shape[0] * np.dot(B.numpy(), A.numpy()),
        lambda W, A, B, alpha: W + torch.einsum("or,ri->oi", B, A) / B.shape[-1] * alpha,
        lambda W, A, B, alpha: (W.T + alpha / len(A) * A.T @ B.T).T,
    ],
    "10.word_weights": [
        _leave,
        _leave_enumerate,
        _leave_pop,
        lambda words, score: torch.stack([torch.tensor(v) for v in _leave(words, score)]),
        lambda words, score: list(map(lambda i: score(" ".join(words)) - score(" ".join([*words[:i], *words[i + 1 :]])),
                                      range(len(words)))),
        _le(join=lambda rest: " ".join(rest).strip()),
    ],
    "10.padding": [
        _share,
        _share_numpy,
        _share_masks,
        lambda n, size: 1 - float(n.sum()) / sum(int(b.max()) * b.numel() for b in torch.split(n, size)),
        lambda n, size: (sum(int((b.max() - b).sum()) for b in n.split(size))
                         / sum(len(b) * int(b.max()) for b in n.split(size))),
    ],
}  # fmt: skip

SLIPS = {
    "10.masked_mean": [
        (_po(keep=lambda h, m: h), "padding added up"),
        (_po(over=lambda m, h: h.shape[1]), "divided by T"),
        (_po(over=lambda m, h: 1), "a sum"),
        (_po(over=lambda m, h: m.sum()), "divided by all tokens"),
        (_po(over=lambda m, h: m.sum(1) - 1), "one token too few"),
        (_po(over=lambda m, h: m.sum(1) + 1), "one token too many"),
        (_po(over=lambda m, h: m.sum(1).sqrt()), "divided by the root"),
        (_po(over=lambda m, h: len(h)), "divided by N"),
        (_po(keep=lambda h, m: h * (1 - m), over=lambda m, h: (1 - m).sum(1)), "mask turned"),
        (_po(add=lambda k: k.amax(1), over=lambda m, h: 1), "the largest"),
        (lambda h, mask: h[:, 0], "the first token"),
        (lambda h, mask: h[torch.arange(len(h)), mask.sum(1) - 1], "the last token"),
        (lambda h, mask: (h * mask[..., None]).sum(0) / mask.sum(0)[:, None], "over the texts"),
        (lambda h, mask: F.normalize((h * mask[..., None]).sum(1)), "unit length"),
        (lambda h, mask: h[mask].mean(0), "one vector for all"),
        (lambda h, mask: h[mask], "every token"),
        (_pool_in_place, "changes h"),
        (lambda h, mask: h.median(1).values, "the median"),
    ],
    "10.tfidf": [
        (_we(norm=lambda x: x), "not of length 1"),
        (_we(norm=lambda x: x / x.sum(1, keepdim=True)), "sum 1"),
        (_we(norm=lambda x: x / x.amax(1, keepdim=True)), "largest 1"),
        (_we(norm=lambda x: x / x.square().sum(0).sqrt()), "columns"),
        (_we(norm=lambda x: x / x.norm()), "one length for all"),
        (_we(norm=lambda x: x / x.square().sum(1, keepdim=True)), "root forgotten"),
        (_we(df=lambda c: c.sum(0)), "df of counts"),
        (_we(df=lambda c: (c > 0).sum(1).float().mean()), "df of texts"),
        (_we(df=lambda c: (c > 1).sum(0)), "df of more than one"),
        (_we(idf=lambda n, d: ((1 + n) / (1 + d)).log()), "without + 1"),
        (_we(idf=lambda n, d: (n / d.clamp_min(1)).log() + 1), "not smoothed"),
        (_we(idf=lambda n, d: (n / (1 + d)).log() + 1), "half smoothed"),
        (_we(idf=lambda n, d: ((1 + n) / (1 + d)).log2() + 1), "log2"),
        (_we(idf=lambda n, d: (1 + n) / (1 + d)), "no logarithm"),
        (_we(idf=lambda n, d: ((1 + n) / (1 + d) + 1).log()), "+ 1 inside"),
        (_we(idf=lambda n, d: 1), "no idf"),
        (_we(tf=lambda c: (c > 0).double()), "words there or not"),
        (_we(tf=lambda c: c.log1p()), "logarithm of counts"),
        (_we(tf=lambda c: c.sqrt()), "root of counts"),
    ],
    "10.merge": [
        (_lo(scale=lambda a, A, B: 1), "no scale"),
        (_lo(scale=lambda a, A, B: a), "α"),
        (_lo(scale=lambda a, A, B: 1 / len(A)), "1 / r"),
        (_lo(scale=lambda a, A, B: a * len(A)), "α r"),
        (_lo(scale=lambda a, A, B: len(A) / a), "r / α"),
        (_lo(scale=lambda a, A, B: a / math.sqrt(len(A))), "α / √r"),
        (_lo(scale=lambda a, A, B: a / A.shape[1]), "α / inputs"),
        (_lo(scale=lambda a, A, B: a / len(B)), "α / outputs"),
        (_lo(scale=lambda a, A, B: a // len(A)), "whole part"),
        (_lo(join=lambda W, d: W - d), "minus"),
        (_lo(join=lambda W, d: d), "ΔW"),
        (_lo(join=lambda W, d: W * d), "times"),
        (_lo(join=lambda W, d: W.add_(d)), "in place"),
        (_lo(product=lambda A, B: A @ B), "A B"),
        (_lo(product=lambda A, B: (B @ A).flip(0)), "rows turned round"),
        (_lo(product=lambda A, B: B @ A.abs()), "absolute"),
    ],
    "10.word_weights": [
        (_le(sign=lambda a, b: b - a), "sign"),
        (_le(sign=lambda a, b: abs(a - b)), "absolute"),
        (_le(sign=lambda a, b: (a - b) / a), "relative"),
        (_le(sign=lambda a, b: a / b), "ratio"),
        (_le(sign=lambda a, b: (a - b) ** 2), "square"),
        (_le(sign=lambda a, b: b), "without the whole"),
        (_le(rest=lambda w, i: [v for v in w if v != w[i]]), "all copies"),
        (_le(rest=lambda w, i: [v for j, v in enumerate(w) if j != w.index(w[i])]), "the first copy"),
        (_le(rest=lambda w, i: w[:i]), "the beginning"),
        (_le(rest=lambda w, i: w[i + 1 :]), "the end"),
        (_le(rest=lambda w, i: w[i : i + 1]), "the word alone"),
        (_le(rest=lambda w, i: w[: i - 1] + w[i:]), "the one before"),
        (_le(join="".join), "without spaces"),
        (_le(join=lambda rest: rest), "a list"),
        (_le(places=lambda w: range(1, len(w))), "from 1"),
        (_le(places=lambda w: range(len(w) - 1)), "without the last"),
        (lambda words, score: sum(_leave(words, score)), "their sum"),
        (lambda words, score: words[int(np.argmax(_leave(words, score)))], "the best word"),
        (_removes_for_good, "removes for good"),
    ],
    "10.padding": [
        (_sh(high=lambda b, n: n.max()), "longest of all"),
        (_sh(high=lambda b, n: b.double().mean()), "the mean"),
        (_sh(high=lambda b, n: b.min()), "the shortest"),
        (_sh(high=lambda b, n: b[0]), "the first"),
        (_sh(size=lambda b, s: s), "last batch full"),
        (_sh(size=lambda b, s: 1), "one text a batch"),
        (_sh(group=lambda n, s: n[: len(n) // s * s].split(s) if len(n) >= s else n.split(s)), "last batch dropped"),
        (_sh(group=lambda n, s: n.chunk(s)), "as many batches as batch_size"),
        (_sh(order=lambda n: n.sort().values), "sorted"),
        (_sh(result=lambda real, places: real / places), "real share"),
        (_sh(result=lambda real, places: places / real - 1), "over the real ones"),
        (_sh(result=lambda real, places: places - real), "a number"),
        (_sh(result=lambda real, places: 100 * (1 - real / places)), "percent"),
        (_sh(result=lambda real, places: 1 - places / real), "upside down"),
        (lambda n, s: float(np.mean([1 - float(b.double().mean() / b.max()) for b in n.split(s)])), "mean of shares"),
        (lambda n, s: 0.0, "nothing"),
    ],
}  # fmt: skip
