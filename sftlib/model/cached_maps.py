"""A detector whose body is frozen: the body's maps are computed once, pyramid and g learn from them.

For pictures of one size. Frozen work is done once; what is augmented must be in the cache as pictures of its own.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sftlib.model import Model, eval_mode
from sftlib.model.detection import BoxHead, PyramidBackbone, body_maps, one_batch
from sftlib.runtime import FLOAT32, Precision, device_of


class Pyramid(nn.Module):
    """(maps of the body {stage: (N, C, h, w)}, sizes (N, 4), N targets) -> what `PyramidBackbone` gives: the rest of f

    sizes: height and width of each picture, then of the batch that it was in.
    """

    def __init__(self, pyramid: nn.Module):
        super().__init__()
        self.pyramid = pyramid

    def forward(self, x: tuple[dict[str, Tensor], Tensor, list | None]):
        """Body's maps, sizes, targets -> (maps, sizes, (H, W), targets)"""
        maps, sizes, targets = x
        return dict(self.pyramid(maps)), [tuple(s[:2]) for s in sizes.tolist()], tuple(sizes[0, 2:].tolist()), targets


def above_the_body(model: Model) -> Model:
    """A detector -> what is above its body, sharing all parameters: trains on what `cached` gives"""
    f, g = model.backbone, model.head
    if not isinstance(f, PyramidBackbone) or not isinstance(g, BoxHead):
        raise ValueError(f"got a {type(f).__name__} and a {type(g).__name__}; expected a model of detector(…)")
    return Model(Pyramid(f.pyramid), g)


@torch.no_grad()
def cached(model: Model, loader: Iterable, *, precision: Precision = FLOAT32) -> tuple:
    """A detector, batches (x, y) of `ForDetection` -> x, y for `above_the_body`, of all N pictures

    Maps are in the precision's type. ValueError where the body learns, and for pictures that differ in size.
    """
    f, device, parts, sizes, targets = model.backbone, device_of(model), [], [], []
    if any(p.requires_grad for p in f.body.parameters()):
        raise ValueError("got a body that learns; expected a frozen one, for its maps would change: freeze(f.body)")
    for (pictures, _), y in loader:
        batch = one_batch(pictures).to(device)
        with eval_mode(f.body), precision.autocast(device.type):
            maps = body_maps(f.body, f.levels, precision.place(batch))
        parts.append({name: h.to(precision.dtype) for name, h in maps.items()})
        sizes += [(*p.shape[-2:], *batch.shape[-2:]) for p in pictures]
        targets += y
    if len({s[2:] for s in sizes}) != 1:
        raise ValueError(f"got pictures that are filled up to {sorted({s[2:] for s in sizes})[:3]}; expected one size")
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return (whole, torch.tensor(sizes), targets), targets
