"""Faster R-CNN as f and g: f makes maps of several sizes of the pictures, g proposes boxes on them and names them.

Ren et al. 2015, Faster R-CNN, arXiv 1506.01497; Lin et al. 2017, Feature Pyramid Networks, arXiv 1612.03144. The parts
are torchvision's; pictures are taken at the size they have, not enlarged to 800 pixels.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from sftlib.model import Model

DIVISIBLE = 32  # by which the pictures' common size can be divided, so that every map is a whole number of cells


class PyramidBackbone(nn.Module):
    """(N pictures (3, H_i, W_i), N targets or None) -> (maps, sizes, (H, W), targets): f of a detector

    The pictures are put into one batch (N, 3, H, W), zeros to the right and below; ``maps`` are those of the named
    stages after a feature pyramid of ``channels`` channels. Targets pass through: g needs them while it trains.
    """

    def __init__(self, backbone: nn.Module, stages: Sequence[str], *, channels: int = 64):
        super().__init__()
        self.body, self.levels, self.channels = backbone, tuple(stages), channels
        widths = [h.shape[1] for h in _maps(backbone, self.levels, torch.zeros(1, 3, 64, 64)).values()]
        self.pyramid = FeaturePyramidNetwork(widths, channels)
        self.preprocess = backbone.preprocess

    def forward(self, x: tuple[list[Tensor], list[dict[str, Tensor]] | None]):
        """([N pictures], [N targets] or None) -> (maps, sizes, (H, W), targets), maps of (N, channels, h, w)"""
        if not isinstance(x, tuple) or len(x) != 2 or not isinstance(x[0], list):
            raise ValueError(
                f"got a {type(x).__name__} as x; expected ([N pictures], [N targets] or None), as "
                "sftlib.datasets.scenes.ForDetection makes it: nest_loader(split, ForDetection(…))"
            )
        pictures, targets = x
        batch = one_batch(pictures)  # (N, 3, H, W)
        maps = self.pyramid(_maps(self.body, self.levels, batch))
        return dict(maps), [tuple(p.shape[-2:]) for p in pictures], tuple(batch.shape[-2:]), targets


class BoxHead(nn.Module):
    """What PyramidBackbone gives -> in train mode the four losses, in eval mode the boxes of each picture: g

    The losses () are objectness and box of the proposals, class and box of what they become; the boxes
    {"boxes" (n, 4) x1 y1 x2 y2 in pixels, "labels" (n,), "scores" (n,)}, surest first.
    """

    def __init__(self, rpn: nn.Module, roi_heads: nn.Module):
        super().__init__()
        self.rpn, self.roi_heads = rpn, roi_heads

    def forward(self, z) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        maps, sizes, (H, W), targets = z
        if self.training and targets is None:
            raise ValueError("got no targets in x and a detector in train mode; expected x = ([pictures], [targets])")
        maps = OrderedDict(maps)
        pictures = next(iter(maps.values())).new_empty(1).expand(len(sizes), 3, H, W)  # only their shape is looked at
        proposals, losses = self.rpn(ImageList(pictures, sizes), maps, targets)
        found, more = self.roi_heads(maps, proposals, sizes, targets)
        return losses | more if self.training else found


def detector(
    backbone: nn.Module, num_classes: int, *, stages: Sequence[str] = ("stage1", "stage2", "stage4"),
    anchors: Sequence[Sequence[int]] = ((16, 32), (48, 64), (96, 160)), ratios: Sequence[float] = (1.0, 2.0),
    channels: int = 64, hidden: int = 128, pool: int = 5, **options: float,
) -> Model:  # fmt: skip
    """A Faster R-CNN on the maps of ``stages`` of a pretrained backbone; class 0 is the background, so K − 1 are found.

    anchors: for each stage the sides in pixels of its anchors, ratios: height over width. ValueError unless there is
    one tuple of anchors for each stage, all of one length.
    """
    if len(anchors) != len(stages) or len({len(a) for a in anchors}) != 1:
        raise ValueError(f"got anchors {anchors} for the stages {stages}; expected for each as many sides, as a tuple")
    f = PyramidBackbone(backbone, stages, channels=channels)
    pooling = MultiScaleRoIAlign(featmap_names=list(f.levels), output_size=pool, sampling_ratio=2)
    whole = FasterRCNN(
        _Widths(channels), num_classes=None, box_predictor=FastRCNNPredictor(hidden, num_classes),
        rpn_anchor_generator=AnchorGenerator(tuple(map(tuple, anchors)), (tuple(ratios),) * len(anchors)),
        box_roi_pool=pooling, box_head=TwoMLPHead(channels * pool**2, hidden), **options,
    )  # fmt: skip
    return Model(f, BoxHead(whole.rpn, whole.roi_heads))


def sum_of_losses(losses: Mapping[str, Tensor], y) -> Tensor:
    """{name: loss ()} of a detector in train mode -> their sum, the L_g of Ren et al. with weights 1"""
    if not isinstance(losses, Mapping):
        raise ValueError(
            f"got a {type(losses).__name__}; expected the losses of a detector in train mode: its head is in eval "
            "mode, where it gives boxes. A frozen head gives no loss; evaluate with task_loss=None"
        )
    return sum(losses.values())


def one_batch(pictures: Sequence[Tensor]) -> Tensor:
    """N pictures (3, H_i, W_i) -> (N, 3, H, W), zeros to the right and below; H and W can be divided by 32"""
    H, W = (-(-max(p.shape[axis] for p in pictures) // DIVISIBLE) * DIVISIBLE for axis in (-2, -1))
    batch = pictures[0].new_zeros(len(pictures), 3, H, W)
    for row, picture in zip(batch, pictures, strict=True):
        row[:, : picture.shape[-2], : picture.shape[-1]] = picture
    return batch


def _maps(backbone: nn.Module, stages: Sequence[str], h: Tensor) -> OrderedDict[str, Tensor]:
    maps = OrderedDict()
    for name in backbone.stages[: 1 + max(map(backbone.stages.index, stages))]:
        h = getattr(backbone, name)(h)
        if name in stages:
            maps[name] = h
    return maps


class _Widths(nn.Module):
    """What FasterRCNN asks of a backbone while it is built"""

    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels
