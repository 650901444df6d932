"""Checkers of notebook 14."""

import math

import torch
import torch.nn.functional as F

from sftlib.checks import checker, expect, require

IGNORED = 255
NOWHERE = "a class that is neither there nor predicted"


@checker("14.mean_iou")
def _mean_iou(answer):
    """confusion (K, K), rows true and columns predicted -> mean over the classes that occur of their IoU"""
    for name, n in _matrices():
        expect(name, answer(n.clone()), _iou(n)[_there(n)].mean().item(), known=_iou_mistakes(n))
    n = _matrices()[0][1]
    turned = float(answer(n.T.contiguous().clone()))
    expect("truth and prediction exchanged", turned, _iou(n).mean().item())
    expect("every pixel counted seven times", answer(7 * n), _iou(n).mean().item())


def _matrices():
    draw = torch.Generator().manual_seed(3)
    whole = torch.randint(0, 30, (5, 5), generator=draw) + 40 * torch.eye(5, dtype=torch.long)
    absent = F.pad(whole[:3, :3], (0, 1, 0, 1))  # the last class is neither there nor predicted
    unseen = absent.clone()
    unseen[0, 3] = 17  # predicted, and never there: its IoU is 0, and counts
    right = torch.diag(torch.tensor([3, 200, 7]))
    return [
        ("a matrix of 5 classes", whole), (NOWHERE, absent),
        ("a class that is predicted and never there", unseen), ("nothing but right answers", right),
        ("2 classes, one never found", torch.tensor([[90, 0], [10, 0]])),
    ]  # fmt: skip


def _iou(n):
    n = n.double()
    return n.diagonal() / (n.sum(0) + n.sum(1) - n.diagonal())


def _there(n):
    return n.sum(0) + n.sum(1) > 0


def _iou_mistakes(n):
    there, n = _there(n), n.double()
    hit, true, said = n.diagonal(), n.sum(1), n.sum(0)
    union = true + said - hit

    def mean(values):
        return values[there].nan_to_num().mean().item()

    return [
        (hit.sum() / n.sum(), "this is the share of right pixels; each class has an IoU of its own, then their mean"),
        (mean(hit / true), "this divides by the true pixels alone (recall); what is wrong is in the union"),
        (mean(hit / said), "this divides by the predicted pixels alone (precision); what is missed is in the union"),
        (mean(hit / (true + said)), "the right pixels are in both sums: take them off once"),
        (mean(2 * hit / (true + said)), "this is the Dice coefficient (F1); IoU divides by the union"),
        (mean(hit / (true + said - 2 * hit)), "this takes the right pixels off twice: they belong to the union"),
        ((hit / union).nan_to_num().mean(), f"{NOWHERE} counts as 0; leave it out"),
        ((hit / union).nan_to_num(nan=1.0).mean(), f"{NOWHERE} counts as 1; leave it out"),
        (hit.sum() / union.sum(), "this adds all classes before it divides; divide for each, then take the mean"),
        (100 * mean(hit / union), "this is in percent; IoU lies between 0 and 1"),
        ((hit / union * true).nan_to_num().sum() / true.sum(), "this weighs classes by their pixels; all are equal"),
    ]  # fmt: skip


@checker("14.dataset_iou")
def _dataset_iou(answer):
    """predicted (N, H, W), y (N, H, W), k -> IoU of class k, all pictures counted together"""
    for n, k, seed in ((7, 2, 0), (3, 0, 1), (5, 1, 2), (1, 2, 3)):
        predicted, y = _maps(n, seed)
        both, either = _counts(predicted, y, k)
        got = answer(predicted.clone(), y.clone(), k)
        expect(f"class {k}, {n} pictures", got, both.sum() / either.sum(), known=_of_pictures(predicted, y, k))
    _pictures_do_not_matter(answer)


def _maps(n, seed):
    """Class maps (n, 11, 13) of 3 classes, of very different amounts in each picture; 70 % of the pixels right"""
    draw = torch.Generator().manual_seed(seed)
    amounts = torch.linspace(0.05, 1.0, n)[:, None, None]
    y = torch.where(torch.rand(n, 11, 13, generator=draw) < amounts, torch.randint(3, (n, 11, 13), generator=draw), 1)
    other = torch.randint(3, y.shape, generator=draw)
    return torch.where(torch.rand(y.shape, generator=draw) < 0.7, y, other), y


def _counts(predicted, y, k):
    p, t = predicted == k, y == k
    return (p & t).flatten(1).sum(1).double(), (p | t).flatten(1).sum(1).double()


def _of_pictures(predicted, y, k):
    both, either = _counts(predicted, y, k)
    p, t = (predicted == k).sum().double(), (y == k).sum().double()
    hit = both.sum()
    of_each = "this is the mean of the pictures' IoUs; add the pixels of all pictures, then divide once"
    return [
        ((both / either).nan_to_num().mean(), of_each), ((both / either).nanmean(), of_each),
        ((predicted == y).double().mean(), "this is the share of right pixels of all classes"),
        (((predicted == k) == (y == k)).double().mean(), "this counts pixels that are rightly not of the class, too"),
        (hit / t, "this divides by the true pixels alone"), (hit / p, "this divides by the predicted pixels alone"),
        (hit / (p + t), "this divides by the sum of both; the pixels in both are in it twice"),
        (2 * hit / (p + t), "this is the Dice coefficient (F1); IoU divides by the union"),
        (hit / y.numel(), "this divides by all pixels"), (hit, "this is the intersection; divide by the union"),
        (100 * hit / either.sum(), "this is in percent; IoU lies between 0 and 1"),
        ((predicted == y).sum() / either.sum(), "the intersection holds right pixels of this class alone, not of all"),
    ]  # fmt: skip


def _pictures_do_not_matter(answer):
    """The same pixels in one picture, or each pixel a picture of its own, are the same data set"""
    predicted, y = _maps(5, 4)
    both, either = _counts(predicted, y, 1)
    want = (both.sum() / either.sum()).item()
    for name, shape in (("all pixels in one picture", (1, -1, 13)), ("each row a picture", (-1, 1, 13))):
        expect(name, answer(predicted.reshape(shape), y.reshape(shape), 1), want)
    two = torch.tensor([[[1, 1, 0]], [[0, 0, 0]]])
    expect("a picture without the class", answer(two.clone(), torch.tensor([[[1, 0, 0]], [[0, 0, 0]]]), 1), 0.5)


LAYERS = (
    ((3, 1, 1),),
    ((3, 2, 1), (3, 1, 1)),
    ((3, 1, 5),),
    ((3, 2, 1), (3, 2, 1), (3, 1, 7)),
    ((7, 2, 1), (1, 1, 1), (3, 3, 2), (5, 1, 3), (3, 1, 1)),
    ((2, 2, 1), (2, 2, 1), (2, 2, 1)),
)


@checker("14.receptive_field")
def _receptive_field(answer):
    """layers (kernel, stride, dilation) from the picture on -> side in pixels of what one cell of the last map sees"""
    for layers in LAYERS:
        what = ", ".join(f"kernel {k} stride {s} dilation {d}" for k, s, d in layers)
        expect(what, answer([tuple(layer) for layer in layers]), _seen(layers), known=_field_mistakes(layers))
    expect("no layer at all", answer([]), 1)


def _seen(layers):
    """By tracing: which pixels of a row the middle cell reaches"""
    cells = {0}
    for k, s, d in reversed(layers):
        cells = {c * s + t * d for c in cells for t in range(k)}
    return max(cells) - min(cells) + 1


def _field(layers, *, dilated=True, strides=True, before=True, less=1, start=1):
    side, jump = start, 1
    for k, s, d in layers:
        if not before:
            jump *= s
        side += (k - less) * (d if dilated else 1) * (jump if strides else 1)
        if before:
            jump *= s
    return side


def _field_mistakes(layers):
    jump = math.prod(s for _, s, _ in layers)
    side = 1
    for k, s, d in layers:
        side = (side - 1) * s + (k - 1) * d + 1
    return [
        (_field(layers, dilated=False), "the dilation is left out: the taps of a dilated kernel lie d apart"),
        (_field(layers, strides=False), "the strides are left out: after a stride of s, neighbours are s pixels apart"),
        (_field(layers, before=False), "a layer's own stride is for the layers after it, not for its kernel"),
        (_field(layers, less=0), "k taps have k − 1 gaps between them"),
        (_field(layers, start=0), "one cell already sees one pixel: begin with 1"),
        (sum(k for k, _, _ in layers), "this adds the kernels"),
        (math.prod(k for k, _, _ in layers), "this multiplies the kernels"),
        (jump, "this is the distance of two neighbours of the last map, the product of the strides"),
        (sum(1 + (k - 1) * d for k, _, d in layers), "a layer adds its span less one, times the strides before"),
        (side, "this runs from the picture on with a rule that runs from the last map back"),
    ]  # fmt: skip


@checker("14.pixel_loss")
def _pixel_loss(answer):
    """logits (N, K, H, W), y (N, H, W), 255 where nothing counts -> mean cross-entropy over the pixels that count"""
    for n, k, seed in ((3, 5, 0), (2, 7, 1), (5, 3, 2)):
        logits, y = _pixels(n, k, seed)
        losses = _losses(logits, y)
        want = losses[y != IGNORED].mean().item()
        expect(f"{n} pictures, {k} classes", answer(logits.clone(), y.clone()), want, known=_loss_mistakes(logits, y))
    logits, y = _pixels(2, 5, 3)
    full = y.where(y != IGNORED, 1)
    expect("every pixel counts", answer(logits.clone(), full.clone()), F.cross_entropy(logits, full).item())
    large, want = 1e3 * logits, F.cross_entropy(1e3 * logits, full).item()
    got = float(answer(large.clone(), full.clone()))
    why = f"logits of thousands give {got}: let log_softmax or cross_entropy do the division"
    require(math.isfinite(got) and abs(got - want) < 1e-3 * want, why)
    zero, y = torch.zeros(2, 7, 3, 5), y[:, :3, :5].clone()
    expect("all logits 0: log K", answer(zero, y), math.log(7))
    _ignored_pixels_do_not_matter(answer)


def _pixels(n, k, seed):
    """Logits (n, k, 5, 11); labels, of which 5 to 80 % of a picture's do not count"""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (n, 5, 11), generator=draw)
    without = torch.rand(n, 5, 11, generator=draw) < torch.linspace(0.05, 0.8, n)[:, None, None]
    return 2 * torch.randn(n, k, 5, 11, generator=draw), y.masked_fill(without, IGNORED)


def _losses(logits, y):
    """-> (N, H, W) pixel by pixel, 0 where nothing counts"""
    p = logits.double().log_softmax(dim=1)
    at = p.gather(1, y.where(y != IGNORED, 0)[:, None])[:, 0]
    return -at.where(y != IGNORED, 0.0)


def _loss_mistakes(logits, y):
    losses, counted = _losses(logits, y), y != IGNORED
    zeroed = F.cross_entropy(logits.double(), y.where(counted, 0))
    own = losses.flatten(1).sum(1) / counted.flatten(1).sum(1)
    return [
        (losses.mean(), "this divides by all pixels; divide by those that count"),
        (losses.sum(), "this is the sum; divide by how many pixels count"),
        (own.mean(), "this is the mean of the pictures' means; one sum over one count, all pixels together"),
        (zeroed, "pixels that do not count are taken as class 0"),
        (F.cross_entropy(logits.double(), y.clamp(max=logits.shape[1] - 1)), "255 is taken as the last class"),
        (losses.sum() / len(y), "this divides by the number of pictures"),
        (-losses[counted].mean(), "the sign: a loss is minus the log of a probability"),
        (losses[counted].mean() / math.log(2), "this is in bits; the natural logarithm gives nats"),
        (F.cross_entropy(logits.double().softmax(1), y, ignore_index=IGNORED), "softmax twice: logits are wanted"),
        (losses[counted & (y != 0)].mean(), "class 0 counts too: only 255 does not"),
    ]  # fmt: skip


def _ignored_pixels_do_not_matter(answer):
    logits, y = _pixels(3, 5, 5)
    other = logits + 5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(6)) * (y == IGNORED)[:, None]
    before, after = float(answer(logits.clone(), y.clone())), float(answer(other, y.clone()))
    why = f"other logits at pixels that do not count changed the loss from {before:.4g} to {after:.4g}"
    require(abs(before - after) < 1e-5, why)


@checker("14.nearest")
def _nearest(answer):
    """class map (H, W), height, width -> (height, width): each pixel the class in which its middle lies"""
    for (H, W), (h, w), seed in (
        ((13, 17), (5, 7), 0),
        ((7, 11), (23, 31), 1),
        ((11, 5), (11, 13), 2),
        ((29, 3), (7, 3), 3),
    ):
        y = _classes(H, W, seed)
        want = _middles(y, h, w)
        expect(f"{H} × {W} to {h} × {w}", answer(y.clone(), h, w), want, known=_resizing_mistakes(y, h, w))
    y = _classes(7, 13, 4)
    expect("the size that it has", answer(y.clone(), 7, 13), y)
    large = answer(y.clone(), 21, 39)
    expect("three times as large: blocks", large, y.repeat_interleave(3, 0).repeat_interleave(3, 1))


def _classes(H, W, seed):
    """A map of the classes 0 to 10, and 255 in a tenth of it"""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(11, (H, W), generator=draw)
    return y.masked_fill(torch.rand(H, W, generator=draw) < 0.1, IGNORED)


def _middles(y, h, w):
    H, W = y.shape
    return torch.tensor(
        [[y[(2 * i + 1) * H // (2 * h), (2 * j + 1) * W // (2 * w)] for j in range(w)] for i in range(h)]
    )


def _resizing_mistakes(y, h, w):
    H, W = y.shape
    t = y.double()[None, None]
    smooth = F.interpolate(t, (h, w), mode="bilinear", align_corners=False)[0, 0]
    mixed = "classes are mixed: a mean of class numbers is another class, or none"
    ends = [torch.linspace(0, side - 1, n).round().long() for side, n in ((H, h), (W, w))]
    corner = "this takes the class at each pixel's corner, which moves the map; its middle is half a pixel further"
    return [
        (F.interpolate(t, (h, w), mode="nearest")[0, 0], f"{corner}: 'nearest-exact'"),
        (smooth, mixed), (smooth.round(), mixed), (smooth.long(), mixed),
        (F.interpolate(t, (h, w), mode="area")[0, 0], mixed),
        (F.interpolate(t, (h, w), mode="bilinear", antialias=True)[0, 0], mixed),
        (F.interpolate(t, (h, w), mode="bilinear", align_corners=True)[0, 0], mixed),
        (y[ends[0]][:, ends[1]], "this lays the corner pixels' middles onto each other; lay the maps' edges"),
        (F.interpolate(t, (w, h), mode="nearest-exact")[0, 0], "height and width are exchanged"),
        (_middles(y.where(y != IGNORED, 0), h, w), "255 has become class 0: what counts for nothing stays so"),
    ]  # fmt: skip
