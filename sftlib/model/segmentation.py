"""DeepLab v3 as f and g: f makes maps of the picture, g says of every pixel what it belongs to.

Chen et al. 2017, Rethinking Atrous Convolution, arXiv 1706.05587. The parts are torchvision's, with dilation rates that
fit the map: a 3 × 3 kernel whose rate is the map's size sees its centre alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from sftlib.model import Model


class MapsBackbone(nn.Module):
    """x (N, 3, H, W) -> (map (N, C, h, w), auxiliary map (N, C', h', w'), (H, W)): f of a segmenter"""

    def __init__(self, backbone: nn.Module, *, stage: str = "stage4", auxiliary: str = "stage3"):
        super().__init__()
        self.body, self.stage, self.auxiliary = backbone, stage, auxiliary
        self.preprocess = backbone.preprocess
        z, h, _ = self(torch.zeros(1, 3, 64, 64))
        self.feature_dim, self.auxiliary_dim = z.shape[1], h.shape[1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """x (N, 3, H, W) -> (map, auxiliary map, (H, W))"""
        size, kept = tuple(x.shape[-2:]), {}
        for name in self.body.stages:
            x = kept[name] = getattr(self.body, name)(x)
            if name == self.stage:
                return x, kept[self.auxiliary], size
        raise ValueError(f"got stage={self.stage!r}; expected one of {', '.join(self.body.stages)}")


class DeepLabHead(nn.Module):
    """(map, auxiliary map, (H, W)) -> logits (N, K, H, W): g of a segmenter"""

    def __init__(self, feature_dim: int, num_classes: int, *, rates: Sequence[int] = (2, 4, 6), channels: int = 128):
        super().__init__()
        self.context = ASPP(feature_dim, rates, channels)
        self.classify = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, num_classes, 1),
        )  # fmt: skip

    def forward(self, z: tuple[Tensor, Tensor, tuple[int, int]]) -> Tensor:
        h, _, size = z
        return F.interpolate(self.classify(self.context(h)), size=size, mode="bilinear", align_corners=False)


class AuxiliaryLoss(nn.Module):
    """L_f of a segmenter: cross-entropy of a small head of its own on the auxiliary map; (z, y (N, H, W)) -> ()

    A mean over pictures of the mean over their counted pixels. Its parameters belong into the optimizer:
    ``param_groups(…, auxiliary=(loss, rate))``. torchvision's reference gives it the weight 0.5.
    """

    def __init__(self, auxiliary_dim: int, num_classes: int, *, ignore_index: int = 255):
        super().__init__()
        self.head, self.ignore_index = FCNHead(auxiliary_dim, num_classes), ignore_index

    def forward(self, z: tuple[Tensor, Tensor, tuple[int, int]], y: Tensor) -> Tensor:
        logits = F.interpolate(self.head(z[1]), size=z[2], mode="bilinear", align_corners=False)
        losses = F.cross_entropy(logits, y, ignore_index=self.ignore_index, reduction="none").flatten(1)  # (N, HW)
        counted = (y != self.ignore_index).flatten(1).sum(dim=1).clamp(min=1)
        return (losses.sum(dim=1) / counted).mean()


def segmenter(
    backbone: nn.Module, num_classes: int, *, stage: str = "stage4", auxiliary: str = "stage3",
    rates: Sequence[int] = (2, 4, 6), channels: int = 128,
) -> Model:  # fmt: skip
    """A DeepLab v3 on the maps of a pretrained backbone, for K classes; `AuxiliaryLoss` goes with it."""
    f = MapsBackbone(backbone, stage=stage, auxiliary=auxiliary)
    return Model(f, DeepLabHead(f.feature_dim, num_classes, rates=rates, channels=channels))
