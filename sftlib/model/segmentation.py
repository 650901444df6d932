"""DeepLab v3 as f and g: f makes maps of the picture, g says of every pixel what it belongs to.

Chen et al. 2017, Rethinking Atrous Convolution, arXiv 1706.05587. The parts are torchvision's, with dilation rates that
fit the map: a 3 × 3 kernel whose rate is the map's size sees its centre alone. Joined with an early, finer map it is
that of Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution (DeepLab v3+), arXiv 1802.02611.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from sftlib.model import Model, eval_mode

EARLY_CHANNELS = 48  # to which the early map is reduced, so that it does not outweigh the others (v3+, section 4.1)

Maps = tuple  # (map (N, C, h, w), auxiliary map (N, C', h', w'), early map (N, C", h", w") if joined, (H, W))


class MapsBackbone(nn.Module):
    """x (N, 3, H, W) -> (map, auxiliary map, early map, (H, W)): f of a segmenter; early=None: without the early map

    The maps are what the stages of those names give; stages above ``stage`` are not run. ValueError for a stage that
    the backbone does not have, and for one above ``stage``.
    """

    def __init__(
        self, backbone: nn.Module, *, stage: str = "stage4", auxiliary: str = "stage3", early: str | None = "stage1"
    ):
        super().__init__()
        self.reads = (stage, auxiliary) if early is None else (stage, auxiliary, early)
        below = backbone.stages[: 1 + backbone.stages.index(stage)] if stage in backbone.stages else ()
        if not set(self.reads) <= set(below):
            raise ValueError(
                f"got stage={stage!r}, auxiliary={auxiliary!r}, early={early!r}; expected stages among "
                f"{', '.join(backbone.stages)}, none above stage"
            )
        self.body, self.runs, self.preprocess = backbone, below, backbone.preprocess
        with torch.no_grad(), eval_mode(backbone):
            *maps, _ = self(torch.zeros(1, 3, 64, 64))
        self.feature_dim, self.auxiliary_dim, *early_dim = (h.shape[1] for h in maps)
        self.early_dim = early_dim[0] if early_dim else None

    def forward(self, x: Tensor) -> Maps:
        """x (N, 3, H, W) -> (map, auxiliary map, early map if joined, (H, W))"""
        size, kept = tuple(x.shape[-2:]), {}
        for name in self.runs:
            x = kept[name] = getattr(self.body, name)(x)
        return *(kept[name] for name in self.reads), size


class DeepLabHead(nn.Module):
    """What MapsBackbone gives -> logits (N, K, H, W): g of a segmenter

    The map's context at the dilation ``rates`` is classified as it is, or, with ``early_dim`` channels of an early map,
    enlarged to that one's size and joined with it.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, rates: Sequence[int] = (2, 4, 6), channels: int = 128,
        early_dim: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.context = ASPP(feature_dim, rates, channels)
        joined = early_dim is not None
        self.reduce = _convolution(early_dim, EARLY_CHANNELS, 1) if joined else None
        self.classify = nn.Sequential(
            _convolution(channels + (EARLY_CHANNELS if joined else 0), channels, 3), nn.Conv2d(channels, num_classes, 1)
        )

    def forward(self, z: Maps) -> Tensor:
        """(map, auxiliary map, early map if joined, (H, W)) -> logits (N, K, H, W)"""
        h, _, *early, size = z
        h = self.context(h)
        if self.reduce is not None:
            fine = self.reduce(early[0])
            h = torch.cat([_enlarged(h, tuple(fine.shape[-2:])), fine], dim=1)
        return _enlarged(self.classify(h), size)


class AuxiliaryLoss(nn.Module):
    """L_f of a segmenter: cross-entropy of a small head of its own on the auxiliary map; (z, y (N, H, W)) -> ()

    A mean over pictures of the mean over their counted pixels. Its parameters belong into the optimizer:
    ``param_groups(…, auxiliary=(loss, rate))``. torchvision's reference gives it the weight 0.5.
    """

    def __init__(self, auxiliary_dim: int, num_classes: int, *, ignore_index: int = 255):
        super().__init__()
        self.head, self.ignore_index = FCNHead(auxiliary_dim, num_classes), ignore_index

    def forward(self, z: Maps, y: Tensor) -> Tensor:
        """z as f gives it, y (N, H, W) -> ()"""
        logits = _enlarged(self.head(z[1]), z[-1])
        losses = F.cross_entropy(logits, y, ignore_index=self.ignore_index, reduction="none").flatten(1)  # (N, HW)
        counted = (y != self.ignore_index).flatten(1).sum(dim=1).clamp(min=1)
        return (losses.sum(dim=1) / counted).mean()


def segmenter(
    backbone: nn.Module, num_classes: int, *, stage: str = "stage4", auxiliary: str = "stage3",
    early: str | None = "stage1", rates: Sequence[int] = (2, 4, 6), channels: int = 128,
) -> Model:  # fmt: skip
    """A DeepLab v3 on the maps of a pretrained backbone, for K classes; `AuxiliaryLoss` goes with it.

    early: the stage whose finer map is joined before pixels are classified; None: v3, whose answer is as coarse as the
    last map. rates: dilation of the three 3 × 3 kernels, in cells of the last map (`fitting_rates`).
    """
    f = MapsBackbone(backbone, stage=stage, auxiliary=auxiliary, early=early)
    return Model(f, DeepLabHead(f.feature_dim, num_classes, rates=rates, channels=channels, early_dim=f.early_dim))


def fitting_rates(height: int, width: int) -> tuple[int, int, int]:
    """size of a map in cells -> dilation rates: a sixth, a third and a half of its shorter side, at least 1, 2, 3

    At rate r the outer taps of a 3 × 3 kernel lie within the map at a share of 1 − r / side of the places along a side,
    so half of them do at the largest of these.
    """
    side = min(height, width)
    return tuple(max(least, round(side / part)) for least, part in ((1, 6), (2, 3), (3, 2)))


def _convolution(before: int, after: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def _enlarged(h: Tensor, size: tuple[int, int]) -> Tensor:
    """h (N, C, h, w) -> (N, C, *size); half pixels at the edges, as torchvision's segmenters do"""
    return F.interpolate(h, size=size, mode="bilinear", align_corners=False)
