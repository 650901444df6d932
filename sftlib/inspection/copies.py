"""Pictures that are all but the same: saved again, scaled, brightened, mirrored."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sftlib.inputs import finite

SIDE = 16  # of the small grey pictures that are compared
CLOSE = 0.06  # distance of a copy, of that of two pictures at random; alike solar cells come as near as 0.09
LUMA = (0.299, 0.587, 0.114)  # grey of red, green and blue, as JPEG and Pillow have it (ITU-R BT.601)
BLOCK = 1024  # rows of the matrix of distances at once
PLAIN = 2.0  # standard deviation of grey values, of 255, below which a picture shows nothing to know it again by


def copies(pictures: Tensor, *, close: float = CLOSE) -> list[tuple[int, int, float]]:
    """pictures uint8 (N, 3, H, W) -> (i, j, distance) with i < j of pictures that are all but the same, nearest first

    Each is made grey and small, its mean taken off, its deviation set to 1, so brightness and contrast do not matter;
    the second of two is mirrored too. The distance is Euclidean, as a share of that of two pictures at random (the
    median of all pairs); pairs below ``close`` are given. Where all pictures are alike, that share is what tells a copy
    from a neighbour. Pictures of one grey are left out: nothing tells them apart.
    """
    close = finite("close", close, above=0, below=1)
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or len(pictures) < 2:
        raise ValueError(f"got pictures {pictures.dtype} {tuple(pictures.shape)}; expected uint8 (N, 3, H, W), N ≥ 2")
    z, mirrored, shows = _small(pictures)
    usual = _usual_distance(z[shows])
    if usual == 0:
        return []
    found = []
    for rows in torch.arange(len(z)).split(BLOCK):
        distance = torch.minimum(torch.cdist(z[rows], z), torch.cdist(z[rows], mirrored)) / usual
        later = torch.arange(len(z)) > rows[:, None]
        near = (distance < close) & later & shows & shows[rows][:, None]
        i, j = near.nonzero(as_tuple=True)
        found += zip(rows[i].tolist(), j.tolist(), distance[i, j].tolist(), strict=True)
    return sorted(found, key=lambda pair: (round(pair[2], 2), pair[:2]))  # the same order on every machine


def _small(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> (N, SIDE²) standardised, the same of the mirrored pictures, and whether each shows something (N,)"""
    luma = torch.tensor(LUMA)[:, None, None]
    grey = torch.cat([F.interpolate((some * luma).sum(1, keepdim=True), (SIDE, SIDE), mode="area")
                      for some in pictures.split(256)])[:, 0]  # fmt: skip
    deviation = grey.flatten(1).std(1)
    z = [(g.flatten(1) - g.flatten(1).mean(1, keepdim=True)) / deviation.clamp_min(PLAIN)[:, None]
         for g in (grey, grey.flip(-1))]  # fmt: skip
    return *z, deviation > PLAIN


def _usual_distance(z: Tensor) -> float:
    """Median distance of some pairs of rows; 0 where there is no pair"""
    some = z[:: max(1, len(z) // 500)]
    return F.pdist(some).median().item() if len(some) > 1 else 0.0
