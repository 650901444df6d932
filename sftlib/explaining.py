"""Where in a picture a network looked: class activation maps by gradients, and how far two maps agree."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sftlib.inputs import classes, within
from sftlib.model import Model, eval_mode


def grad_cam(model: Model, x: Tensor, k: Tensor | int | None = None, *, stage: str | None = None) -> Tensor:
    """x (N, 3, H, W) as f takes it -> maps (N, H, W) in [0, 1]: where evidence for class k lies; None: the predicted

    h (N, C, H', W') are the maps that leave ``stage``, by default the last maps of f. The weight of channel c is
    α_c = mean over positions of ∂logit_k/∂h_c, the map ReLU(Σ_c α_c h_c) (Selvaraju et al. 2017, Grad-CAM, arXiv
    1610.02391, eq. 1 and 2), enlarged bilinearly and divided by its largest value; all 0 where nothing speaks for k.
    It is as fine as H' × W', no finer, and shows what speaks for k, not what speaks against the others. ValueError
    where f gives no maps there (a Transformer's are rows of tokens).
    """
    f = model.backbone
    stage = last_maps(model, x) if stage is None else stage
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        h = f.lower(x.clone(), stage).detach().requires_grad_()
        if h.ndim != 4:
            raise ValueError(f"got {tuple(h.shape)} from {stage}; expected maps (N, C, H, W): choose an earlier stage")
        logits = model.head(f.upper(h, stage))  # (N, K)
        k = _chosen(logits, k)
        (slope,) = torch.autograd.grad(logits.gather(1, k[:, None]).sum(), h)  # a picture's logit depends on it alone
    alpha = slope.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    maps = (alpha * h.detach()).sum(1, keepdim=True).relu()  # (N, 1, H', W')
    maps = F.interpolate(maps.float(), x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    largest = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1.0)


@torch.no_grad()
def last_maps(model: Model, x: Tensor) -> str:
    """The last stage of f that gives maps of more than one position"""
    h, found = x[:1], None
    with eval_mode(model):
        for name in model.backbone.stages:
            h = getattr(model.backbone, name)(h)
            if isinstance(h, Tensor) and h.ndim == 4 and h.shape[-2] * h.shape[-1] > 1:
                found = name
    if found is None:
        raise ValueError(f"got {type(model.backbone).__name__} without a stage that gives maps; expected convolutions")
    return found


def share_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """maps (N, H, W) ≥ 0, mask (H, W) or (N, H, W) of booleans -> (N,) the share of each map that lies inside

    To be compared with the share of the area: a map that says nothing has that much inside. NaN for a map of zeros.
    """
    if mask.dtype is not torch.bool or mask.shape[-2:] != maps.shape[-2:]:
        raise ValueError(
            f"got a mask {mask.dtype} {tuple(mask.shape)}; expected booleans (…, {maps.shape[1]}, {maps.shape[2]})"
        )
    return (maps * mask).sum((1, 2)) / maps.sum((1, 2))


def agreement(maps: Tensor, others: Tensor) -> Tensor:
    """maps (N, H, W), others (N, H, W) -> (N,) their correlation, picture by picture; NaN where one is constant"""
    a, b = (m.flatten(1) - m.flatten(1).mean(1, keepdim=True) for m in (maps, others))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def _chosen(logits: Tensor, k: Tensor | int | None) -> Tensor:
    n, K = logits.shape
    if k is None:
        return logits.argmax(1)
    k = torch.full((n,), k) if isinstance(k, int) else k
    k = classes(k, n, "k")
    within(k, K, "k")
    return k.to(logits.device)
