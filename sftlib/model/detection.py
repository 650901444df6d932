"""Faster R-CNN as f and g: f makes maps of several sizes of the pictures, g proposes boxes on them and names them.

Ren et al. 2015, Faster R-CNN, arXiv 1506.01497; Lin et al. 2017, Feature Pyramid Networks, arXiv 1612.03144. The parts
are torchvision's; pictures are taken at the size they have, not enlarged to 800 pixels.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_area

from sftlib.model import Model, eval_mode
from sftlib.model.targets import check_targets

SIDE = 256  # of the picture from which the maps' sizes are read
DIVISIBLE = 32  # by which the pictures' common size can be divided, so that every map is a whole number of cells
# Of torchvision's settings, those that suit pictures of some hundred pixels with some tens of boxes: its own are for
# 800 pixels, and cost five times as much (`benchmarks/detection.py`)
FEW: Mapping[str, float] = {
    "rpn_pre_nms_top_n_train": 400, "rpn_post_nms_top_n_train": 200, "rpn_pre_nms_top_n_test": 400,
    "rpn_post_nms_top_n_test": 150, "rpn_batch_size_per_image": 128, "box_batch_size_per_image": 64,
}  # fmt: skip


class PyramidBackbone(nn.Module):
    """(N pictures (3, H_i, W_i), N targets or None) -> (maps, sizes, (H, W), targets): f of a detector

    The pictures are put into one batch (N, 3, H, W), zeros to the right and below; ``maps`` are those of the named
    stages after a feature pyramid of ``channels`` channels, normalised in groups of them: else maps of a body without
    normalisation come in hundreds, and the new heads learn nothing for a pass. Targets pass through to g, which trains.
    """

    def __init__(self, backbone: nn.Module, stages: Sequence[str], *, channels: int = 64):
        super().__init__()
        self.body, self.levels, self.channels = backbone, tuple(stages), channels
        with torch.no_grad(), eval_mode(backbone):
            maps = body_maps(backbone, self.levels, torch.zeros(1, 3, SIDE, SIDE)).values()
        self.strides = [2 ** round(math.log2(SIDE / h.shape[-1])) for h in maps]  # pixels from cell to cell
        self.pyramid = FeaturePyramidNetwork([h.shape[1] for h in maps], channels, norm_layer=_group_norm)
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
        maps = self.pyramid(body_maps(self.body, self.levels, batch))
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
        if self.training:
            check_targets(targets, sizes, self.roi_heads.box_predictor.cls_score.out_features)
        maps = OrderedDict(maps)
        pictures = next(iter(maps.values())).new_empty(1).expand(len(sizes), 3, H, W)  # only their shape is looked at
        proposals, losses = self.rpn(ImageList(pictures, sizes), maps, targets)
        found, more = self.roi_heads(maps, proposals, sizes, targets)
        return losses | more if self.training else found


def detector(
    backbone: nn.Module, num_classes: int, *, stages: Sequence[str] = ("stem", "stage1", "stage4"),
    anchors: Sequence[Sequence[float]] = ((16, 24), (36, 54), (80, 120)), ratios: Sequence[float] = (1.0, 2.5),
    channels: int = 64, hidden: int = 128, pool: int = 5, **options: float,
) -> Model:  # fmt: skip
    """A Faster R-CNN on the maps of ``stages`` of a pretrained backbone; class 0 is the background, so K − 1 are found.

    anchors: for each stage the sides in pixels of its anchors, the roots of their areas, rising; ratios: height over
    width; `anchors_for` gives both for the boxes of one's own. A proposal is read from the map whose anchors are
    nearest in size. options: those of torchvision's FasterRCNN, in place of FEW. ValueError unless there is one tuple
    of anchors for each stage, all of one length, and they rise.
    """
    sides = [side for level in anchors for side in level]
    if len(anchors) != len(stages) or len({len(a) for a in anchors}) != 1 or sides != sorted(sides) or sides[0] <= 0:
        raise ValueError(
            f"got anchors {anchors} for the stages {stages}; expected for each as many sides, as a tuple, the smallest "
            "first: anchors_for(boxes) gives them"
        )
    f = PyramidBackbone(backbone, stages, channels=channels)
    pooling = MultiScaleRoIAlign(featmap_names=list(f.levels), output_size=pool, sampling_ratio=2)
    # torchvision would infer the scales from the first batch, and choose levels for pictures of 800 pixels
    pooling.scales = [1 / stride for stride in f.strides]
    pooling.map_levels = NearestLevel([(a[-1] * b[0]) ** 0.5 for a, b in zip(anchors[:-1], anchors[1:], strict=True)])
    whole = FasterRCNN(
        _Widths(channels), num_classes=None, box_predictor=FastRCNNPredictor(hidden, num_classes),
        rpn_anchor_generator=AnchorGenerator(tuple(map(tuple, anchors)), (tuple(ratios),) * len(anchors)),
        box_roi_pool=pooling, box_head=TwoMLPHead(channels * pool**2, hidden), **{**FEW, **options},
    )  # fmt: skip
    return Model(f, BoxHead(whole.rpn, whole.roi_heads))


class NearestLevel:
    """n lists of boxes (m, 4) -> (sum of m,), the number of the map whose anchors are nearest in size

    borders: the sides in pixels, rising, at which the next map begins. (Lin et al. 2017, eq. (1), takes the logarithm
    of the side for pictures of 800 pixels: all boxes below 112 pixels are then read from the lowest map.)
    """

    def __init__(self, borders: Sequence[float]):
        self.borders = torch.tensor(borders)

    def __call__(self, boxes: Sequence[Tensor]) -> Tensor:
        sides = torch.cat([box_area(b) for b in boxes]).sqrt()
        return torch.bucketize(sides, self.borders.to(sides))


def anchors_for(
    boxes: Tensor, *, levels: int = 3, each: int = 2, ratios: int = 2
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """boxes (n, 4) of the training pictures -> anchors and ratios for `detector`: quantiles of their sides and shapes

    ``each`` sides for each of ``levels`` maps, and so many ratios, at the middles of equal parts of the boxes.
    """
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or len(boxes) < levels * each:
        raise ValueError(f"got boxes {tuple(boxes.shape)}; expected (n, 4), at least {levels * each} of them")
    width, height = (boxes[:, 2:] - boxes[:, :2]).double().unbind(1)
    sides = _middles((width * height).sqrt(), levels * each)
    rows = tuple(tuple(sides[i : i + each]) for i in range(0, len(sides), each))
    return rows, tuple(_middles(height / width, ratios))


def every_anchor(model: Model, height: int, width: int) -> Tensor:
    """A detector, a picture's size in pixels -> its anchors (A, 4), those of the finest map first"""
    picture = next(model.parameters()).new_zeros(3, height, width)
    with torch.no_grad():
        maps, sizes, (H, W), _ = model.backbone(([picture], None))
    batch = picture.new_empty(1).expand(1, 3, H, W)
    return model.head.rpn.anchor_generator(ImageList(batch, sizes), list(maps.values()))[0]


def _middles(values: Tensor, n: int) -> list[float]:
    at = (torch.arange(n, dtype=values.dtype) + 0.5) / n
    return [round(v, 2) for v in values.quantile(at).tolist()]


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


def body_maps(backbone: nn.Module, stages: Sequence[str], h: Tensor) -> OrderedDict[str, Tensor]:
    """A batch of pictures (N, 3, H, W) -> {stage: its map (N, C, h, w)} of the named stages, in the backbone's order"""
    maps = OrderedDict()
    for name in backbone.stages[: 1 + max(map(backbone.stages.index, stages))]:
        h = getattr(backbone, name)(h)
        if name in stages:
            maps[name] = h
    return maps


def _group_norm(channels: int) -> nn.Module:
    """Wu and He 2018, Group Normalization, arXiv 1803.08494: any body's maps in one scale, in batches of any size"""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class _Widths(nn.Module):
    """What FasterRCNN asks of a backbone while it is built"""

    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels
