"""What pictures must go through before a network sees them. It belongs to the weights: they were learned with it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as TF
from torchvision.transforms.functional import InterpolationMode

SMALLEST_SIDE = 32  # five halvings leave one position of a 32-pixel picture
LARGEST_SIDE = 4096  # 200 MB a picture as float32


@dataclass(frozen=True)
class Preprocess:
    """pictures uint8 RGB (N, 3, H, W) or (3, H, W) -> x float32 (N, 3, S, S), for one picture (1, 3, S, S)

    The shorter side is resized to `resize` pixels and the middle square of `size` pixels is kept; then come the channel
    order and x = (pictures / scale - mean) / std per channel, with mean and std in the network's own channel order.
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 255.0
    bgr: bool = False
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, pictures: Tensor | np.ndarray) -> Tensor:
        return self.normalise(self.square(pictures))

    def square(self, pictures: Tensor) -> Tensor:
        """pictures uint8 (N, 3, H, W) or (3, H, W) -> uint8 (N, 3, S, S); of the right size: not resampled"""
        pictures = _checked(pictures)
        # The functions of torchvision's published transforms, so that the numbers are theirs to the bit.
        pictures = TF.resize(pictures, [self.resize], interpolation=self.interpolation, antialias=True)
        return TF.center_crop(pictures, [self.size])

    def normalise(self, pictures: Tensor) -> Tensor:
        """pictures uint8 (N, 3, S, S) -> x float32 (N, 3, S, S)"""
        x = pictures.flip(1) if self.bgr else pictures
        x = x.to(torch.float32)
        if self.scale != 1:
            x = x.div_(self.scale)
        # Sent without waiting for what the GPU still computes; on MPS such a copy would not be safe.
        mean, std = (
            torch.tensor(values, dtype=x.dtype).view(3, 1, 1).to(x.device, non_blocking=x.is_cuda)
            for values in (self.mean, self.std)
        )
        return x.sub_(mean).div_(std)

    def at(self, size: int | None) -> "Preprocess":
        """The same for pictures of `size` pixels: shorter side to `size`, middle square kept. None: as published."""
        if size is None:
            return self
        if isinstance(size, bool) or not isinstance(size, int) or not SMALLEST_SIDE <= size <= LARGEST_SIDE:
            raise ValueError(
                f"size={size!r}: expected the side of a picture in pixels, a whole number of at least {SMALLEST_SIDE} "
                f"and at most {LARGEST_SIDE}, or None for the size that was published with the weights"
            )
        return replace(self, size=size, resize=size)


def _checked(pictures: Tensor | np.ndarray) -> Tensor:
    if isinstance(pictures, np.ndarray) and pictures.dtype == np.uint8:
        pictures = torch.from_numpy(np.array(pictures, order="C"))
    if not isinstance(pictures, Tensor) or pictures.dtype != torch.uint8:
        got = pictures.dtype if isinstance(pictures, Tensor | np.ndarray) else type(pictures).__name__
        raise ValueError(
            f"got {got}; expected a torch.uint8 tensor with values 0 to 255, or such an array of NumPy. Pass the "
            "pictures as they were decoded: scaling and normalising are done here, and doing them twice is a common "
            "mistake"
        )
    if pictures.ndim not in (3, 4) or pictures.shape[-3] != 3 or 0 in pictures.shape:
        raise ValueError(
            f"got pictures of shape {tuple(pictures.shape)}; expected (N, 3, H, W) or (3, H, W) with channels first, "
            "in RGB order (a grey picture: pictures.expand(-1, 3, -1, -1); channels last: pictures.movedim(-1, -3))"
        )
    return pictures if pictures.ndim == 4 else pictures[None]
