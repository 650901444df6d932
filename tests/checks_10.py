"""Right and wrong answers to the exercises of notebook 10. WRONG: (answer, words that the checker must say)."""

import math

import torch
import torch.nn.functional as F


def _mean(h, mask):
    real = mask[..., None]
    return (h * real).sum(1) / real.sum(1)


def _mean_by_loop(h, mask):
    return torch.stack([row[real].mean(0) for row, real in zip(h, mask, strict=True)])


def _tfidf(counts):
    idf = ((1 + len(counts)) / (1 + (counts > 0).sum(0))).log() + 1
    return F.normalize(counts * idf)


def _tfidf_by_loop(counts):
    N, rows = len(counts), []
    df = [sum(1 for row in counts.tolist() if row[v]) for v in range(counts.shape[1])]
    for row in counts.tolist():
        weights = [c * (math.log((1 + N) / (1 + d)) + 1) for c, d in zip(row, df, strict=True)]
        norm = math.sqrt(sum(w * w for w in weights))
        rows.append([w / norm for w in weights])
    return rows


def _weights(words, score):
    whole = score(" ".join(words))
    return [whole - score(" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]


def _weights_by_copy(words, score):
    found = []
    for i in range(len(words)):
        rest = list(words)
        del rest[i]
        found.append(score(" ".join(words)) - score(" ".join(rest)))
    return torch.tensor(found)


def _without_copies(words, score):
    return [score(" ".join(words)) - score(" ".join(w for w in words if w != word)) for word in words]


def _padding(lengths, batch_size):
    batches = lengths.split(batch_size)
    return 1 - lengths.sum() / sum(len(b) * b.max() for b in batches)


def _padding_by_counting(lengths, batch_size):
    padded = positions = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start : start + batch_size].tolist()
        for length in batch:
            padded += max(batch) - length
            positions += max(batch)
    return padded / positions


def _mean_of_shares(lengths, batch_size):
    return sum(1 - b.double().mean() / b.max() for b in lengths.split(batch_size)) / len(lengths.split(batch_size))


RIGHT = {
    "10.masked_mean": [
        _mean,
        _mean_by_loop,
        lambda h, mask: torch.einsum("ntd,nt->nd", h, mask.to(h.dtype)) / mask.sum(1, keepdim=True),
        lambda h, mask: torch.where(mask[..., None], h, torch.nan).nanmean(1),
        lambda h, mask: h.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1) / mask.sum(dim=1).unsqueeze(-1),
    ],
    "10.tfidf": [_tfidf, _tfidf_by_loop],
    "10.merge": [
        lambda W, A, B, alpha: W + alpha / len(A) * B @ A,
        lambda W, A, B, alpha: torch.addmm(W, B, A, alpha=alpha / B.shape[1]),
        lambda W, A, B, alpha: W + sum(torch.outer(B[:, i], A[i]) for i in range(len(A))) * alpha / len(A),
    ],
    "10.word_weights": [_weights, _weights_by_copy],
    "10.padding": [_padding, _padding_by_counting],
}

WRONG = {
    "10.masked_mean": [
        (lambda h, mask: h.mean(1), "padding is averaged too"),
        (lambda h, mask: (h * mask[..., None]).mean(1), "not by T"),
        (lambda h, mask: (h * mask[..., None]).sum(1), "this is the sum"),
        (lambda h, mask: (h * mask[..., None]).sum(1) / mask.sum(), "of all texts"),
        (lambda h, mask: (kept := h * mask[..., None]).sum(1) / (kept != 0).sum(1).clamp_min(1), "count the mask"),
        (lambda h, mask: h[:, 0], "[CLS]"),
        (lambda h, mask: (h * mask[..., None]).amax(1), "largest"),
        (lambda h, mask: (h * ~mask[..., None]).sum(1) / (~mask).sum(1, keepdim=True).clamp_min(1), "mean of the pad"),
        (lambda h, mask: (h * mask[..., None]).sum(1, keepdim=True) / mask[..., None].sum(1, keepdim=True), "is to go"),
        (lambda h, mask: torch.stack([row[real].mean() for row, real in zip(h, mask, strict=True)]), "shape"),
    ],
    "10.tfidf": [
        (lambda c: c * (((1 + len(c)) / (1 + (c > 0).sum(0))).log() + 1), "length 1"),
        (lambda c: F.normalize(c * (((1 + len(c)) / (1 + (c > 0).sum(0))).log() + 1), p=1), "add up to 1"),
        (lambda c: F.normalize(c * ((1 + len(c)) / (1 + (c > 0).sum(0))).log()), "+ 1 is missing"),
        (lambda c: F.normalize(c * ((len(c) / (c > 0).sum(0).clamp_min(1)).log() + 1)), "both numbers"),
        (lambda c: F.normalize(c * (((1 + len(c)) / (1 + c.sum(0))).log() + 1)), "counts the texts"),
        (lambda c: F.normalize(c * (((1 + len(c)) / (1 + (c > 0).sum(0))).log10() + 1)), "natural"),
        (F.normalize, "rare words must weigh more"),
        (lambda c: F.normalize((c > 0) * (((1 + len(c)) / (1 + (c > 0).sum(0))).log() + 1)), "multiply by the count"),
        (lambda c: F.normalize(_raw(c), dim=0), "not each word"),
        (lambda c: _raw(c) / _raw(c).norm(), "not all by one"),
        (lambda c: F.normalize(c * (((1 + (c > 0).sum(0)) / (1 + len(c))).log() + 1)), "on its head"),
    ],
    "10.merge": [
        (lambda W, A, B, alpha: W + B @ A, "α / r is missing"),
        (lambda W, A, B, alpha: W + alpha * B @ A, "divide by the rank"),
        (lambda W, A, B, alpha: W + B @ A / len(A), "α is missing"),
        (lambda W, A, B, alpha: W + alpha * len(A) * B @ A, "not α · r"),
        (lambda W, A, B, alpha: alpha / len(A) * B @ A, "alone; add W"),
        (lambda W, A, B, alpha: W - alpha / len(A) * B @ A, "added"),
        (lambda W, A, B, alpha: W + alpha / len(A) * A @ B, "has the shape of W"),
        (lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A, "number of inputs"),
        (lambda W, A, B, alpha: W + alpha / len(B) * B @ A, "number of outputs"),
        (lambda W, A, B, alpha: W.add_(alpha / len(A) * B @ A), "changes its argument"),
    ],
    "10.word_weights": [
        (lambda words, score: [-v for v in _weights(words, score)], "sign is turned"),
        (lambda words, score: [score(" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))], "without each"),
        (lambda words, score: [score(word) for word in words], "alone"),
        (lambda words, score: [score(" ".join(words)) - score(word) for word in words], "not that of the others"),
        (lambda words, score: [abs(v) for v in _weights(words, score)], "absolute"),
        (_without_copies, "every copy"),
        (lambda words, score: _weights([word.lower() for word in words], score), "capitals"),
        (lambda words, score: [score(words) - score(words[:i] + words[i + 1 :]) for i in range(len(words))], "a text"),
        (lambda words, score: [score(" ".join(words)) - score("".join(words[:i] + words[i + 1 :]))
                               for i in range(len(words))], "spaces"),
        (lambda words, score: [score(" ".join(words)) - score(" ".join(words[:i])) for i in range(len(words))],
         "follows"),
    ],
    "10.padding": [
        (_mean_of_shares, "mean of the batches"),
        (lambda n, size: 1 - n.double().mean() / n.max(), "its own longest"),
        (lambda n, size: 1 - _padding(n, size), "share of real tokens"),
        (lambda n, size: _padding(n, size) / (1 - _padding(n, size)), "over the real tokens"),
        (lambda n, size: sum((b.max() - b).sum() for b in n.split(size)), "number of padded"),
        (lambda n, size: 100 * _padding(n, size), "percent"),
        (lambda n, size: 1 - n.sum() / (size * sum(b.max() for b in n.split(size))), "fewer texts"),
        (lambda n, size: _padding(n.sort().values, size), "sorted first"),
    ],
}  # fmt: skip


def _raw(counts):
    return counts * (((1 + len(counts)) / (1 + (counts > 0).sum(0))).log() + 1)
