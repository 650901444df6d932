"""How well the edges of regions are met: intersection over union of the bands along them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sftlib.inputs import whole
from sftlib.metrics.measures import Sums, _require_counted, _valid, check_classes


def edge_band(masks: Tensor, width: int) -> Tensor:
    """masks bool (…, H, W) -> bool (…, H, W): pixels of a mask up to ``width`` pixels from what is outside of it

    Distances are those of a king in chess. What lies beyond the picture is outside, as in the authors' code.
    """
    if masks.dtype is not torch.bool or masks.ndim < 2:
        raise ValueError(f"got masks {masks.dtype} of shape {tuple(masks.shape)}; expected bool (…, H, W)")
    width, (H, W) = whole("width", width), masks.shape[-2:]
    outside = F.pad((~masks).float().reshape(-1, 1, H, W), (width,) * 4, value=1.0)
    along = F.max_pool2d(F.max_pool2d(outside, (2 * width + 1, 1), stride=1), (1, 2 * width + 1), stride=1)
    return masks & (along.reshape(masks.shape) > 0)


class BoundaryIoU(Sums):
    """Intersection over union of the bands along the edges of K classes, over a whole data set; their mean.

    Cheng et al. 2021, Boundary IoU, arXiv 2103.16562, eq. (2): of each class the pixels of its mask up to ``width``
    from the mask's edge, predicted and true. Pixels whose target is ``ignore_index`` belong to no mask. A class
    without a band in any picture has no IoU (NaN in "boundary_iou") and is left out of the mean.
    """

    key, higher_is_better = "mean_boundary_iou", True

    def __init__(self, num_classes: int, width: int, ignore_index: int | None = 255):
        super().__init__()
        self.num_classes, self.width = whole("num_classes", num_classes, least=2), whole("width", width)
        self.ignore_index = ignore_index

    def add(self, output: Tensor, y: Tensor) -> None:
        """output (N, K, H, W), y whole numbers (N, H, W): ValueError for other shapes."""
        check_classes(output, y)
        if output.shape[1] != self.num_classes:
            raise ValueError(
                f"got outputs of {output.shape[1]} classes; expected the {self.num_classes} of this measure"
            )
        valid = _valid(y, self.ignore_index)
        predicted, both, either = output.argmax(dim=1), [], []
        for k in range(self.num_classes):
            p, t = (edge_band((labels == k) & valid, self.width) for labels in (predicted, y))
            both.append((p & t).sum())
            either.append((p | t).sum())
        outside = valid & ((y < 0) | (y >= self.num_classes))
        self._count(
            both=torch.stack(both), either=torch.stack(either), counted=valid.sum(), outside=outside.sum()
        )  # fmt: skip

    def values(self) -> dict[str, float | list[float]]:
        """{"mean_boundary_iou", "boundary_iou": K numbers}, in [0, 1]"""
        _require_counted(self._sums, "pixels")
        iou = self._sums["both"].cpu().double() / self._sums["either"].cpu().double()  # 0 / 0 is NaN
        return {"mean_boundary_iou": iou[~iou.isnan()].mean().item(), "boundary_iou": iou.tolist()}
