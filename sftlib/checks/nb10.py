"""Checkers of notebook 10."""

import math

import torch

from sftlib.checks import Wrong, checker, expect, numeric, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("10.masked_mean")
def _masked_mean(answer):
    """h (N, T, D), mask (N, T) -> z (N, D): the mean over the real tokens of each text"""
    for N, T, D, seed in ((3, 7, 5, 0), (5, 11, 2, 1), (1, 5, 3, 2), (7, 7, 7, 3)):
        h, mask = _draw(N, T, D, seed=seed) + 0.5, _mask(N, T, seed)
        h[:, :2, 0] = 0  # a number of a real token may be 0
        z = torch.stack([row[real].mean(0) for row, real in zip(h, mask, strict=True)])
        kept = h * mask[..., None]
        known = [
            (h.mean(1), "padding is averaged too: only the tokens where mask is True count"),
            (kept.mean(1), "padding is 0 in the sum, and still counted: divide by the real tokens, not by T"),
            (kept.sum(1), "this is the sum over the real tokens; divide by how many they are"),
            (kept.sum(1) / mask.sum(), "this divides by the real tokens of all texts; each text has its own number"),
            (kept.sum(1) / mask.sum(0).sum() * N, "this divides by the mean number of real tokens; each has its own"),
            (kept.sum(1) / (kept != 0).sum(1).clamp_min(1), "a 0 in a real token's vector counts too: count the mask"),
            (h[:, 0], "this is the first token alone ([CLS])"),
            (kept.amax(1), "this is the largest value; the mean was asked"),
            (
                (h * ~mask[..., None]).sum(1) / (~mask).sum(1, keepdim=True).clamp_min(1),
                "this is the mean of the padding",
            ),
        ]
        got = answer(h.clone(), mask.clone())
        if getattr(got, "shape", None) == (N, 1, D):
            raise Wrong(f"got shape {(N, 1, D)}, expected {(N, D)}: the axis of the tokens is to go")
        expect(f"{N} texts of up to {T} tokens", got, z, known=known)
    _does_not_see_padding(answer)


def _mask(N, T, seed):
    """Texts of 1 to T tokens, the first the longest; in odd cases padding stands on the left"""
    lengths = torch.arange(N) * 3 % (T - 1) + 1
    lengths[0] = T if N > 1 else T - 2
    mask = torch.arange(T) < lengths[:, None]
    return mask.flip(1) if seed % 2 else mask


def _does_not_see_padding(answer):
    h, mask = _draw(3, 5, 2, seed=5), _mask(3, 5, 4)
    other = torch.where(mask[..., None], h, 1e6)
    before, after = (numeric("z", answer(v.clone(), mask.clone())) for v in (h, other))
    why = "what stands at the padding changes z: multiply by the mask before you add up"
    require(before.shape == after.shape and torch.allclose(before, after, rtol=1e-4), why)


@checker("10.tfidf")
def _tfidf(answer):
    """counts (N, V) -> weights (N, V): count × (log((1 + N) / (1 + df)) + 1), rows of length 1"""
    for N, V, seed in ((5, 7, 0), (11, 3, 1), (3, 13, 2)):
        counts = (_draw(N, V, seed=seed).abs() * 2).floor()
        counts[:, 0], counts[0, 1] = counts[:, 0] + 1, 3  # the first word is in all texts, and no text is empty
        df = (counts > 0).double().sum(0)
        idf = ((1 + N) / (1 + df)).log() + 1
        unit = _unit
        known = [
            (counts * idf, "the rows must have length 1: divide each by the root of the sum of its squares"),
            (counts * idf / (counts * idf).sum(1, keepdim=True), "the rows add up to 1; they must have length 1"),
            (unit(counts * (idf - 1)), "the + 1 is missing: a word that is in all texts must keep some weight"),
            (unit(counts * ((N / df.clamp_min(1)).log() + 1)), "add 1 to both numbers of the fraction"),
            (unit(counts * (((1 + N) / (1 + counts.sum(0))).log() + 1)),
             "df counts the texts that hold the word, not how often it is there"),
            (unit(counts * (((1 + N) / (1 + df)).log10() + 1)), "the natural logarithm was meant"),
            (unit(counts * (((1 + N) / (1 + df)).log2() + 1)), "the natural logarithm was meant"),
            (unit(counts), "these are the counts alone: rare words must weigh more"),
            (unit((counts > 0) * idf), "how often a word is in the text is lost: multiply by the count"),
            (unit((1 + counts).log() * idf), "the count itself was asked, not its logarithm"),
            (unit(counts * (((1 + df) / (1 + N)).log() + 1)), "the fraction stands on its head: rare words weigh more"),
            (_unit(counts * idf, 0), "each text has length 1, not each word: the norm goes along a row"),
            (counts * idf / (counts * idf).norm(), "each row by its own length, not all by one"),
        ]  # fmt: skip
        expect(f"{N} texts, {V} words", answer(counts.clone()), unit(counts * idf), known=known)


def _unit(x, dim=1):
    return x / x.norm(dim=dim, keepdim=True).clamp_min(1e-12)


@checker("10.merge")
def _merge(answer):
    """W (P, Q), A (r, Q), B (P, r), alpha -> W + alpha / r · B A"""
    for P, Q, r, alpha, seed in ((5, 7, 2, 16, 0), (3, 11, 3, 2.0, 1), (7, 5, 1, 8, 2), (5, 5, 5, 3, 3)):
        W, A, B = _draw(P, Q, seed=seed), _draw(r, Q, seed=seed + 10), _draw(P, r, seed=seed + 20)
        BA = B @ A
        known = [
            (W + BA, "the scale α / r is missing"),
            (W + alpha * BA, "divide by the rank r: the scale is α / r"),
            (W + BA / r, "α is missing: the scale is α / r"),
            (W + alpha * r * BA, "the scale is α / r, not α · r"),
            (W + r / alpha * BA, "the scale stands on its head: α / r"),
            (W + alpha / math.sqrt(r) * BA, "this divides by √r (rsLoRA); here the scale is α / r"),
            (W - alpha / r * BA, "ΔW is added, not taken away"),
            (alpha / r * BA, "this is ΔW alone; add W"),
            (W + alpha / Q * BA, "this divides by the number of inputs; the rank r is the number of rows of A"),
            (W + alpha / P * BA, "this divides by the number of outputs; the rank r is the number of rows of A"),
        ]
        if r == P == Q:
            known += [(W + alpha / r * A @ B, "this is A B; the product is B A: first A, then B")]
            known += [(W + alpha / r * BA.T, "this adds the transpose")]
            known += [(W + alpha / r * A * B, "a matrix product was meant, @, not one of the entries, *")]
        try:
            got = answer(W.clone(), A.clone(), B.clone(), alpha)
        except RuntimeError as error:
            if "shapes" not in str(error) and "size" not in str(error):
                raise
            why = "B (P, r) @ A (r, Q) has the shape of W (P, Q)"
            raise Wrong(f"shapes do not fit for W {(P, Q)}, A {(r, Q)}, B {(P, r)}: {why} ({error})") from None
        expect(f"W {(P, Q)}, rank {r}, α = {alpha}", got, W + alpha / r * BA, known=known)


@checker("10.word_weights")
def _word_weights(answer):
    """words (n), score(text) -> n numbers: the score of all words minus that without word i"""
    values = {"a": 0.25, "fine": 1.5, "not": -2.0, "film": 0.0, "great": 3.0, "tired": -1.25, "US": 0.5, "us": -0.75}

    def score(text):
        """Sum of values; "not" turns what follows, so that order and neighbours count"""
        require(isinstance(text, str), f"score takes a text, got a {type(text).__name__}: put spaces between the words")
        total, turn = 0.125 * len(text.split()), 1.0
        for word in text.split():
            total += turn * values.get(word, 10.0)
            turn = -0.5 if word == "not" else 1.0
        return total

    for words in map(str.split, ("not great not fine", "a great film", "fine fine tired a fine", "film", "us not US")):
        n, whole = len(words), score(" ".join(words))
        without = [score(" ".join(words[:i] + words[i + 1 :])) for i in range(n)]
        want = [whole - s for s in without]
        of_value = [whole - score(" ".join(w for w in words if w != word)) for word in words]
        first = [words[:j] + words[j + 1 :] for j in (words.index(word) for word in words)]
        known = [
            ([-v for v in want], "the sign is turned: a word that raises the score has a positive weight"),
            (without, "these are the scores without each word; take them from the score of the whole text"),
            ([score(word) for word in words], "these are the scores of each word alone"),
            ([whole - score(word) for word in words], "this takes off the word's score alone, not that of the others"),
            ([abs(v) for v in want], "without absolute values: some words lower the score"),
            (of_value, "every copy of the word is left out; leave out the one at place i"),
            ([whole - score(" ".join(rest)) for rest in first],
             "the first of equal words is left out each time; leave out the one at place i"),
            ([whole - score("".join(words[:i] + words[i + 1 :])) for i in range(n)], "put spaces between the words"),
            ([score("".join(words)) - score("".join(words[:i] + words[i + 1 :])) for i in range(n)],
             "put spaces between the words"),
            ([score(" ".join(words).lower()) - score(" ".join(words[:i] + words[i + 1 :]).lower()) for i in range(n)],
             "the words as they stand: a score may tell capitals from small letters"),
            ([whole - score(" ".join(words[:i])) for i in range(n)], "all that follows word i is left out too"),
            ([whole - score(" ".join(words[i + 1 :])) for i in range(n)], "all that stands before is left out too"),
        ]  # fmt: skip
        expect(f"{' '.join(words)!r}", answer(list(words), score), want, known=known)


@checker("10.padding")
def _padding(answer):
    """lengths (N,) in the order given, batch_size -> share of the positions that are padding, in [0, 1)"""
    for lengths, size in (([5, 3, 11, 7, 2], 2), ([13, 13, 13], 3), ([1, 17, 2, 3, 19, 23, 5], 3), ([7], 5)):
        batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
        real, places = sum(lengths), sum(len(b) * max(b) for b in batches)
        shares = [1 - sum(b) / (len(b) * max(b)) for b in batches]
        whole = [b for b in batches if len(b) == size] or batches
        ordered = sorted(lengths)
        by_length = sum(len(b) * max(b) for b in (ordered[i : i + size] for i in range(0, len(ordered), size)))
        known = [
            (sum(shares) / len(shares), "this is the mean of the batches' shares; divide sums once"),
            (1 - real / (len(lengths) * max(lengths)), "a batch is padded to its own longest, not to that of all"),
            (real / places, "this is the share of real tokens"),
            ((places - real) / real, "this is the padding over the real tokens; divide by all positions"),
            (places - real, "this is the number of padded positions; divide by all positions"),
            (100 * (1 - real / places), "this is in percent; a share lies between 0 and 1"),
            (1 - sum(map(sum, whole)) / sum(len(b) * max(b) for b in whole), "the last, smaller batch counts too"),
            (1 - real / (size * sum(map(max, batches))), "the last batch has fewer texts than batch_size"),
            (1 - real / by_length, "the texts were sorted first; take the order that is given"),
        ]
        got = answer(torch.tensor(lengths), size)
        expect(f"lengths {lengths} in batches of {size}", got, 1 - real / places, known=known)
