"""Checks of what pictures went through, against what the weights were trained with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sftlib.doctor.case import Case, Found

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SURELY = 0.1  # distance to whole numbers: 0.25 where there are none


@dataclass(frozen=True)
class Own:
    """The preprocessing of the weights: x = (p / scale − mean) / std, p from 0 to 255, in the network's order"""

    mean: tuple
    std: tuple
    scale: float = 255.0
    size: int | None = None
    bgr: bool = False


OTHERS = {  # what pictures went through -> how
    "mean and deviation 0.5": Own((0.5,) * 3, (0.5,) * 3), "ImageNet's mean and deviation": Own(*IMAGENET),
    "no mean and deviation": Own((0.0,) * 3, (1.0,) * 3),
    "pixels as they are, 0 … 255": Own((0.0,) * 3, (1.0,) * 3, scale=1.0),
    "CIFAR-10's mean and deviation": Own((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-10's mean and deviation, counted by pixel": Own((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100's mean and deviation": Own((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "CLIP's mean and deviation": Own((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}  # fmt: skip


def own_preprocessing(case: Case) -> Own | None:
    """As the weights say it: a Preprocess, torchvision's transforms, timm's pretrained_cfg; None where nothing does"""
    given = case.preprocess
    if given is None and case.backbone is not None:
        drawn = any(getattr(m, "pretrained", None) is False for m in case.backbone.modules())
        given = None if drawn else getattr(case.backbone, "preprocess", None)
    if given is None:
        given = getattr(case.model, "pretrained_cfg", None)
    if isinstance(given, dict) and {"mean", "std"} <= given.keys():
        return Own(tuple(given["mean"]), tuple(given["std"]), size=(given.get("input_size") or (0, 0, None))[-1])
    mean, std = getattr(given, "mean", None), getattr(given, "std", None)
    if not (isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) and len(mean) == len(std) == 3):
        return None
    size = getattr(given, "size", None) or getattr(given, "crop_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    return Own(tuple(mean), tuple(std), getattr(given, "scale", 255.0), size, getattr(given, "bgr", False) is True)


def pictures_of(case: Case) -> Tensor | None:
    """x (N, 3, H, W) of a training batch, floating or whole numbers"""
    x = case.train.batches[0][0]
    return x if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 3 and x.numel() else None


def pixel_scale(case: Case) -> Found:
    """0 … 255 where 0 … 1 was meant, or the other way round"""
    x, own = pictures_of(case), own_preprocessing(case)
    if x is None:
        return
    lowest, highest = float(x.min()), float(x.max())
    raw = not x.is_floating_point() or (lowest >= 0 and highest > 50)
    if own is None:
        if raw:
            yield (
                f"x from {lowest:g} to {highest:g}",
                "pictures go in as 0 … 255: most networks were trained on values near 0",
                "divide by 255, take mean and deviation of the weights",
                "likely",
            )
        return
    top = max((255 / own.scale - m) / s for m, s in zip(own.mean, own.std, strict=True))
    if raw and highest > 4 * top or top > 50 and highest < 5:
        yield (
            f"x from {lowest:g} to {highest:g}",
            f"the weights' own preprocessing gives at most {top:.3g}: the scale of the pixels is another",
            "the weights' own preprocessing, once",
            "certain",
        )


def pixel_mean_and_deviation(case: Case) -> Found:
    """Normalised, but by other numbers than the weights'"""
    x, own = pictures_of(case), own_preprocessing(case)
    if x is None or own is None or not x.is_floating_point() or _fits(x, own) or _fits(x.flip(1), own):
        return
    fitting = [name for name, other in OTHERS.items() if (other.mean, other.std) != (own.mean, own.std)
               and _fits(x, other)]  # fmt: skip
    if not fitting and 0 <= float(x.min()) and 0.5 < float(x.max()) <= 1 and own.mean != (0.0,) * 3:
        fitting = ["no mean and deviation"]
    if not fitting:
        return
    name = fitting[0]
    yield (
        f"x with {name}",
        f"the weights were trained with mean {own.mean} and deviation {own.std}: every feature is shifted",
        "the weights' own preprocessing, once",
        "certain",
    )


def channel_order(case: Case) -> Found:
    """Red and blue exchanged"""
    x, own = pictures_of(case), own_preprocessing(case)
    if x is None or own is None or not x.is_floating_point():
        return
    swapped = not _fits(x, own) and _fits(x.flip(1), own)
    raw = _raw_of(case, len(x))
    if not swapped and raw is not None:
        seen = (x.float() * _column(own.std) + _column(own.mean)).mean((2, 3))
        colours = raw.float().mean((2, 3)) / 255
        colours = colours.flip(1) if own.bgr else colours
        straight, other = ((seen - c).abs().mean() for c in (colours, colours.flip(1)))
        swapped = float(other) < 0.3 * float(straight) and float(straight) > 0.01
    if swapped:
        yield (
            "x",
            "red and blue are exchanged (OpenCV reads blue first): colours mislead the network",
            "the weights' own order: picture[..., ::-1] after cv2.imread",
            "certain",
        )


def picture_size(case: Case) -> Found:
    """Far smaller or larger than the weights know"""
    x, own = pictures_of(case), own_preprocessing(case)
    if x is None or own is None or not isinstance(own.size, int) or x.shape[-1] == own.size:
        return
    ratio = x.shape[-1] / own.size
    yield (
        f"x of {x.shape[-2]} × {x.shape[-1]} pixels",
        f"the weights were trained on {own.size}: things have another size in pixels than the features know",
        f"resize to {own.size}, or build the backbone for this size and compare both",
        "note" if 0.5 <= ratio <= 2 else "likely",
    )


def not_compared(case: Case) -> str:
    """What could not be told of the preprocessing, and why; empty where nothing is left out"""
    x, own = pictures_of(case), own_preprocessing(case)
    if x is None:
        return ""
    if own is None:
        return "preprocessing against the weights' own, which is not known: pass preprocess="
    if not (_fits(x, own) or any(_fits(x, other) for other in OTHERS.values())):
        return "mean and deviation of the pixels, which are no whole numbers (resized or coloured as fractions)"
    return ""


def _fits(x: Tensor, own: Own) -> bool:
    """Whether (x · std + mean) · scale are pixels: whole numbers from 0 to 255"""
    p = (x[:8].double() * _column(own.std) + _column(own.mean)) * own.scale
    if float(p.min()) < -1 or float(p.max()) > 256:
        return False
    return all(float((c - c.round()).abs().mean()) < SURELY for c in p.unbind(1))


def _column(values: tuple) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def _raw_of(case: Case, n: int) -> Tensor | None:
    """The first pictures as the data set holds them, uint8 RGB (n, 3, H, W), where the loader keeps their order"""
    loader = case.train.loader
    held = getattr(case.train.dataset, "pictures", None)
    in_order = not getattr(getattr(loader, "order", None), "shuffle", True)
    fits = isinstance(held, Tensor) and held.dtype is torch.uint8 and held.ndim == 4 and held.shape[1] == 3
    return held[:n] if fits and in_order and len(held) >= n else None
