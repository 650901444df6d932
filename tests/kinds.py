"""One small model and data set of each kind that the machinery carries: random data, real modules for f.

A kind says everything that differs between them; the tests that take kinds hold no case of their own.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sftlib.adaptation import eval_stats_train_affine, param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader
from sftlib.losses import ctc
from sftlib.metrics import Accuracy, AveragePrecision, ErrorRate, MeanIoU
from sftlib.model import FrameHead, LinearHead, Model, TokenHead
from sftlib.model.detection import detector, sum_of_losses
from sftlib.model.segmentation import AuxiliaryLoss, segmenter

N, K, T, V, F = 13, 3, 11, 23, 5  # examples, classes, tokens or frames, words, mels
IGNORED, SIDE = 255, 48


@dataclass(frozen=True)
class Kind:
    """A model, N examples, how they are trained and measured; ``refused``: what cannot be done, and why."""

    model: Callable[[], Model]
    data: Callable[[], tuple]
    settings: dict = field(default_factory=dict)  # of fit and, but for what only training has, of evaluate
    key: str = "accuracy"
    score: dict | None = None  # of evaluate, where it measures otherwise than fit
    vector: bool = False  # z is (N, D), which a probe reads
    refused: dict[str, str] = field(default_factory=dict)  # "parts" or "workers" -> words of the error
    close: float = 1e-3  # how near two workers come to one process; less where the loss is of boxes drawn at random

    def loss_modules(self) -> dict[str, nn.Module]:
        """Losses with parameters, which the optimizer must hold"""
        return {name: part for name, part in self.settings.items() if isinstance(part, nn.Module)}


def optimizer_of(kind: Kind, model: Model) -> torch.optim.Optimizer:
    groups = {"backbone": (model.backbone, 3e-3), "head": (model.head, 1e-2)}
    groups |= {name: (module, 1e-2) for name, module in kind.loss_modules().items()}
    return torch.optim.SGD(param_groups(**groups), momentum=0.5)


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def loader_of(kind: Kind, *, batch_size=5, shuffle=True, drop_last=False):
    return nest_loader(
        NestSplit(*kind.data()), batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, generator=g(7)
    )


def score_of(kind: Kind) -> dict:
    """How `evaluate` measures it"""
    return kind.score or {name: v for name, v in kind.settings.items() if name in ("task_loss", "metric", "terms")}


def parameters_of(kind: Kind, model: Model) -> Tensor:
    modules = [model, *kind.loss_modules().values()]
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def fresh(kind: Kind) -> dict:
    """The kind's settings, losses with parameters as they were built"""
    return {n: copy.deepcopy(STARTS[n]) if n in kind.loss_modules() else v for n, v in kind.settings.items()}


# ------------------------------------------------------------------------------------------------------------ pictures


def pictures():
    return torch.randn(N, 3, SIDE, SIDE, generator=g()), labels()


def labels(seed=1):
    return torch.randint(K, (N,), generator=g(seed))


def picture_model():
    torch.manual_seed(2)
    f = load_backbone("squeezenet1_1", pretrained=False)
    return Model(f, LinearHead(f.feature_dim, K))


# --------------------------------------------------------------------------------------------------------------- texts


class Text(nn.Module):
    """{ids (N, T), mask (N, T)} -> z (N, D), the masked mean of what a small BERT gives"""

    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=V, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=17,
            max_position_embeddings=T, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.encoder = BertModel(config, add_pooling_layer=False)

    def forward(self, x):
        h = self.encoder(input_ids=x["ids"], attention_mask=x["mask"]).last_hidden_state  # (N, T, D)
        mask = x["mask"][..., None]
        return (h * mask).sum(dim=1) / mask.sum(dim=1)


def texts():
    lengths = torch.randint(2, T + 1, (N,), generator=g(3))
    mask = (torch.arange(T) < lengths[:, None]).long()
    return {"ids": torch.randint(1, V, (N, T), generator=g(4)) * mask, "mask": mask}, labels()


def text_model():
    torch.manual_seed(5)
    return Model(Text(), LinearHead(12, K))


# ------------------------------------------------------------------------------------------------------ language model


class Body(nn.Module):
    """{ids (N, T), mask (N, T), answer (N, A)} -> z (N, A, D): a small Llama's states where an answer is predicted"""

    def __init__(self):
        super().__init__()
        from transformers import LlamaConfig, LlamaModel

        config = LlamaConfig(
            vocab_size=V, hidden_size=12, intermediate_size=17, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=T,
        )  # fmt: skip
        self.transformer = LlamaModel(config)

    def forward(self, x):
        h = self.transformer(input_ids=x["ids"], attention_mask=x["mask"], use_cache=False).last_hidden_state
        return h.gather(1, x["answer"][..., None].expand(-1, -1, h.shape[-1]))


def conversations():
    x, _ = texts()
    A = 4
    answers = torch.randint(1, A + 1, (N,), generator=g(6))  # their lengths: unequal
    counted = torch.arange(A) < answers[:, None]
    x["answer"] = torch.where(counted, torch.randint(T, (N, A), generator=g(7)).sort(dim=1).values, 0)
    return x, torch.where(counted, torch.randint(V, (N, A), generator=g(8)), -100)


def language_model():
    torch.manual_seed(9)
    return Model(Body(), TokenHead(nn.Parameter(torch.randn(V, 12, generator=g(9)) / 4)))


# --------------------------------------------------------------------------------------------------------------- sound


class Frames(nn.Module):
    """(frames (N, T, F), lengths (N,)) -> (h (N, T, D), lengths)"""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(F, 7, batch_first=True)

    def forward(self, x):
        frames, lengths = x
        return self.lstm(frames)[0], lengths


class LastState(Frames):
    """(frames (N, T, F), lengths (N,)) -> z (N, D), the state at lengths − 1"""

    def forward(self, x):
        h, lengths = super().forward(x)
        return h[torch.arange(len(h), device=h.device), lengths - 1]


def sounds():
    lengths = torch.randint(7, T + 1, (N,), generator=g(10))
    return (torch.randn(N, T, F, generator=g(11)) * (torch.arange(T) < lengths[:, None])[..., None], lengths), labels()


def word_model():
    torch.manual_seed(12)
    return Model(LastState(), LinearHead(7, K))


def transcripts():
    x, _ = sounds()
    said = torch.randint(1, 4, (N,), generator=g(13))
    return x, torch.where(torch.arange(3) < said[:, None], torch.randint(1, K + 1, (N, 3), generator=g(14)), -1)


def transcript_model():
    torch.manual_seed(15)
    return Model(Frames(), FrameHead(7, K + 1))


# ----------------------------------------------------------------------------------------- detection and segmentation


def scenes():
    sizes = [(SIDE + i, SIDE + 16 - i) for i in range(N)]  # every batch of them is padded to 64 × 64
    found = [torch.randn(3, h, w, generator=g(16 + i)) for i, (h, w) in enumerate(sizes)]
    targets = [boxes_of(i, h, w) for i, (h, w) in enumerate(sizes)]
    return (found, targets), targets


def boxes_of(i, h, w):
    """0, 1 or 2 boxes"""
    corner = torch.rand(i % 3, 2, generator=g(30 + i)) * torch.tensor([w / 2, h / 2])
    size = 9 + torch.rand(i % 3, 2, generator=g(50 + i)) * torch.tensor([w / 3, h / 3])
    return {"boxes": torch.cat([corner, corner + size], dim=1), "labels": torch.randint(1, K, (i % 3,), generator=g(i))}


def detection_model():
    torch.manual_seed(17)
    return detector(
        load_backbone("squeezenet1_1", pretrained=False), K, channels=11, hidden=13, rpn_post_nms_top_n_train=30,
        rpn_post_nms_top_n_test=30, box_batch_size_per_image=16, rpn_batch_size_per_image=32,
    )  # fmt: skip


def streets():
    y = torch.randint(K, (N, SIDE, SIDE), generator=g(18))
    ignored = torch.rand(N, SIDE, SIDE, generator=g(19)) < torch.linspace(0.05, 0.9, N)[:, None, None]
    return torch.randn(N, 3, SIDE, SIDE, generator=g(20)), y.masked_fill(ignored, IGNORED)


def segmentation_model():
    torch.manual_seed(21)
    return without_noise(segmenter(load_backbone("squeezenet1_1", pretrained=False), K, channels=7))


def auxiliary_loss():
    torch.manual_seed(22)
    return without_noise(AuxiliaryLoss(384, K))


def without_noise(module):
    """No draws, and BatchNorm with its running statistics: what parts of a batch, and workers, need to be equal"""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return eval_stats_train_affine(module)


def pixels(output: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, y, ignore_index=IGNORED)


def counted_pixels(y: Tensor) -> int:
    return (y != IGNORED).sum()


def answer_tokens(y: Tensor) -> int:
    return (y != -100).sum()


def iou():
    return MeanIoU(K)


def token_accuracy():
    return Accuracy(ignore_index=-100)


STARTS = {"feature_loss": auxiliary_loss()}
KINDS = {
    "pictures": lambda: Kind(picture_model, pictures, vector=True),
    "text": lambda: Kind(text_model, texts, vector=True),
    "language model": lambda: Kind(language_model, conversations, {"terms": answer_tokens, "metric": token_accuracy}),
    "words in sound": lambda: Kind(word_model, sounds, vector=True),
    "transcripts": lambda: Kind(
        transcript_model, transcripts, {"task_loss": ctc, "metric": ErrorRate}, key="error_rate"
    ),
    "detection": lambda: Kind(
        detection_model, scenes, {"task_loss": sum_of_losses, "metric": None, "terms": None}, key="ap",
        score={"task_loss": None, "metric": AveragePrecision}, refused={"parts": "no mean over terms"}, close=1.0,
    ),
    "segmentation": lambda: Kind(
        segmentation_model, streets,
        {"task_loss": pixels, "metric": iou, "terms": counted_pixels, "feature_loss": auxiliary_loss(),
         "feature_weight": 0.5},
        key="mean_iou", refused={"workers": "state would differ"},
    ),
}  # fmt: skip
