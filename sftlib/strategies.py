"""How much of a pretrained classifier learns: five strategies, each a few lines of `adaptation`.

| strategy | what learns | from where |
|---|---|---|
| probe | g | random g |
| partial | g and the last stage of f that has something to learn | the same |
| lora | g, and a matrix of low rank beside every weight of f (Hu et al. 2021, arXiv 2106.09685) | the same |
| full | f and g | the same |
| lp-ft | f and g | from the best g on the frozen features (Kumar et al. 2022, arXiv 2202.10054) |
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sftlib.adaptation import eval_stats_train_affine, freeze, param_groups, train_only, trainable, wrap_lora
from sftlib.backbones import load_backbone
from sftlib.datasets import Splits, loader
from sftlib.features import extract, knn_accuracy, linear_probe, out_of_fold
from sftlib.model import LinearHead, Model
from sftlib.model.files import load_safely, require_same_shapes, save_atomically

STRATEGIES = ("probe", "partial", "lora", "full", "lp-ft")
RANK, ALPHA = 8, 16.0  # of lora
L2 = (0.01, 0.1, 1.0, 10.0)  # weight decays of the probe to choose from, on standardised features


def assembled(strategy: str, f: nn.Module, num_classes: int) -> Model:
    """f with stages, K -> g ∘ f, g new; what the strategy does not train is frozen. BatchNorm keeps its statistics.

    ValueError for a name that is none of `STRATEGIES`.
    """
    require_strategy(strategy)
    if strategy == "probe":
        freeze(f)
    elif strategy == "lora":
        f = wrap_lora(f, rank=RANK, alpha=ALPHA)
    elif strategy == "partial":
        train_only(f, getattr(f, last_stage(f)))
    if strategy != "probe" and strategy != "lora":
        keep_statistics(f)
    return Model(f, LinearHead(f.feature_dim, num_classes))


def new(name: str, strategy: str, num_classes: int, *, size: int | None, pretrained: bool = True) -> Model:
    """The same from the name of a network: `load_backbone`, then `assembled`"""
    return assembled(strategy, load_backbone(name, pretrained=pretrained, size=size), num_classes)


def require_strategy(strategy: str) -> None:
    """ValueError unless it is one of `STRATEGIES`"""
    if strategy not in STRATEGIES:
        raise ValueError(f"got the strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")


def last_stage(f: nn.Module) -> str:
    """The last stage of f that has matrices or kernels: what ``partial`` trains"""
    return next(name for name in reversed(f.stages) if any(p.ndim > 1 for p in getattr(f, name).parameters()))


def keep_statistics(f: nn.Module) -> None:
    """Every BatchNorm in f that trains keeps its statistics, its affine map goes on training: batches are small"""
    for part in f.modules():
        if isinstance(part, _BatchNorm) and trainable(part):
            eval_stats_train_affine(part)


def groups(model: Model, *, rate_f: float, rate_g: float) -> list[dict]:
    """g ∘ f -> groups for an optimizer, named f and g; without f where nothing in it trains"""
    parts = {"f": (model.backbone, rate_f)} if trainable(model.backbone) else {}
    return param_groups(**parts, g=(model.head, rate_g))


class Judged(NamedTuple):
    """A network on a training part: out-of-fold probabilities p (N, K) of linear probes, and what they got right"""

    f: nn.Module
    z: Tensor  # (N, D)
    y: Tensor  # (N,)
    p: Tensor  # (N, K)
    right: Tensor  # (N,) of 0 and 1
    neighbours: float  # accuracy of the five nearest others, in [0, 1]
    seconds: float


def judge(
    name: str | None, data: Splits, *, size: int, budget_s: float, l2: float = 0.1, seed: int = 0
) -> Judged | None:
    """A network's frozen features on ``data.train``, by probes in five folds; None where ``budget_s`` is too short

    Sixteen pictures are timed first. Each class needs five training pictures. Without a name, the control: no network,
    z are the pixels themselves, pictures averaged down to size × size.
    """
    began, n = time.perf_counter(), len(data.train)
    if name is None:
        f, y = nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten()), data.train.labels
        z = f(data.train.pictures.float())
    else:
        f = load_backbone(name, size=size)
        began = time.perf_counter()
        extract(f, loader(data.train.subset(torch.arange(min(16, n))), f.preprocess))
        if (time.perf_counter() - began) / min(16, n) * n > budget_s:
            return None
        z, y = extract(f, loader(data.train, f.preprocess, batch_size=50))
    p = out_of_fold(z, y, num_classes=len(data.classes), l2=l2, seed=seed)
    right = (p.argmax(1) == y).double()
    return Judged(f, z, y, p, right, knn_accuracy(z, y, k=5), time.perf_counter() - began)


def start_from_probe(model: Model, batches: Iterable, val_batches: Iterable, *, l2: Sequence[float] = L2) -> float:
    """Batches (x, y) without augmentation -> the weight decay chosen; ``model.head`` is now the probe on z = f(x)

    Of the ``l2`` the one of the lowest cross-entropy on ``val_batches`` is taken.
    """
    K = model.head.out_features
    z, y = extract(model.backbone, batches)
    held_z, held_y = extract(model.backbone, val_batches)
    probes = {decay: linear_probe(z, y, num_classes=K, l2=decay) for decay in l2}
    best = min(probes, key=lambda decay: _loss(probes[decay], held_z, held_y))
    model.head.load_state_dict(probes[best].state_dict())
    return best


@torch.no_grad()
def _loss(head: LinearHead, z: Tensor, y: Tensor) -> float:
    return F.cross_entropy(head(z), y).item()


def save_trained(path: Path, model: Model, strategy: str, classes: Sequence[str], *, size: int | None) -> Path:
    """Write a trained model as `load_trained`, tools/predict.py and tools/serve.py read it

    size: the side in pixels that pictures were read at; None: as they are.
    """
    f = model.backbone
    options = {"backbone": f.name, "size": f.input_size, "pictures": None if size is None else "", "strategy": strategy}
    settings = {"options": options, "classes": list(classes), "preprocess": str(f.preprocess)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically({"model": model.state_dict(), "settings": settings}, path)
    return path


def load_trained(path: Path) -> tuple[Model, list[str], int | None]:
    """best.pt of a run of tools/train.py, or what `save_trained` wrote -> the model in eval mode, its classes, and the
    side that pictures are read at (None: as they are)

    ValueError for what neither of them wrote, and where pictures are prepared otherwise in this version.
    """
    state = load_safely(path)
    try:
        weights, classes = state["model"], state["settings"]["classes"]
        options, preprocess = state["settings"]["options"], state["settings"]["preprocess"]
        name, size, pictures, strategy = (options[key] for key in ("backbone", "size", "pictures", "strategy"))
    except (KeyError, TypeError):
        raise ValueError(f"{path} was not written by tools/train.py; expected the best.pt of a run of it") from None
    f = load_backbone(name, pretrained=False, size=size)
    if str(f.preprocess) != preprocess:
        raise ValueError(
            f"{path} was trained on pictures prepared by {preprocess}, this version has {f.preprocess}: predict with "
            "the version of the course that trained it"
        )
    model = assembled(strategy, f, len(classes))
    require_same_shapes(path, weights, model.state_dict())
    model.load_state_dict(weights)
    return model.eval(), classes, None if pictures is None else size
