"""What the checks read: the model and optimizer as they are, what the loaders gave, and what a step did."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sftlib.doctor.look import Look
from sftlib.doctor.record import Run

Found = Iterator[tuple[str, str, str, str]]  # where, message, remedy, sure


@dataclass
class Case:
    """One set-up. Modes are those before the look (``now``) and those after ``model.train()`` and ``model.eval()``."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: dict[str, Callable]
    backbone: nn.Module | None = None
    head: nn.Module | None = None
    preprocess: object = None
    groups: tuple | None = None  # of training and validation examples
    tokenizer: object = None
    task_loss_told: bool = False
    train: Look | None = None
    val: Look | None = None
    run: Run | None = None  # the user's step, or one with an ordinary loss
    evaluation: Run | None = None
    output: Tensor | None = None  # of a batch, in train mode
    eval_outputs: tuple[Tensor, Tensor] | None = None  # twice of one batch, in eval mode, with other random numbers
    now: set[int] = field(default_factory=set)  # modules in train mode
    after_train: set[int] = field(default_factory=set)
    after_eval: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.now = self._training()
        self.model.train()
        self.after_train = self._training()
        self.model.eval()
        self.after_eval = self._training()

    def _training(self) -> set[int]:
        return {id(m) for m in self.model.modules() if m.training}

    @cached_property
    def named(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters of the model, each once"""
        return list(self.model.named_parameters())

    @cached_property
    def of_losses(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters of the losses that are modules"""
        modules = {name: loss for name, loss in self.losses.items() if isinstance(loss, nn.Module)}
        return [
            (f"{name}.{inner}", p) for name, loss in modules.items() for inner, p in loss.named_parameters()
            if p.requires_grad
        ]  # fmt: skip

    @cached_property
    def groups_of(self) -> dict[int, list[int]]:
        """Parameter -> the optimizer's groups that hold it, as often as they do"""
        held: dict[int, list[int]] = {}
        for i, group in enumerate(self.optimizer.param_groups):
            for p in group["params"]:
                held.setdefault(id(p), []).append(i)
        return held

    @cached_property
    def classes(self) -> int | None:
        """K, where the output is (N, K, …) and y counts classes: (N,), or (N, …)"""
        if self.output is None or self.train is None or self.output.ndim < 2 or self._embeds():
            return None
        y = self.train.batches[0][1]
        fits = isinstance(y, Tensor) and not y.is_floating_point() and y.dtype is not torch.bool
        return self.output.shape[1] if fits and y.shape[1:] == self.output.shape[2:] else None

    def _embeds(self) -> bool:
        """Whether the user's loss takes the output for features: it has classes of its own, or none at all"""
        run = self.run
        if run is None or run.own or not run.losses:
            return False
        return bool(run.taught) or not run.before_loss & {"of_classes", "sigmoid", "sigmoid_bce"}

    @cached_property
    def labels(self) -> Tensor | None:
        """Labels (M,) of training, where they are classes of (N, K)"""
        one_each = self.classes is not None and self.output.ndim == 2
        return self.train.labels if one_each else None

    @cached_property
    def norms(self) -> list[tuple[str, nn.Module]]:
        """Every BatchNorm of the model"""
        return [(name, m) for name, m in self.model.named_modules() if isinstance(m, _BatchNorm)]

    @cached_property
    def frozen_norms(self) -> list[tuple[str, nn.Module]]:
        """Every BatchNorm that stands among frozen weights and has no trainable one of its own"""
        return [(name, m) for name, m in self.norms if _is_frozen(m) and self._among_frozen(name)]

    def _among_frozen(self, name: str) -> bool:
        """Whether the nearest part around it that has other weights has frozen ones"""
        while name:
            name = name.rpartition(".")[0]
            around = self.model.get_submodule(name)
            others = [
                m for m in around.modules() if not isinstance(m, _BatchNorm) and list(m.parameters(recurse=False))
            ]
            if others:
                return any(_is_frozen(m) for m in others)
        return False

    def parts(self) -> dict[str, nn.Module]:
        """The model's parts, at the first level that has more than one with weights"""
        module, prefix = self.model, ""
        while True:
            children = {n: m for n, m in module.named_children() if any(True for _ in m.parameters())}
            if len(children) != 1:
                return {prefix + name: m for name, m in children.items()}
            (name, module), = children.items()  # fmt: skip
            prefix += f"{name}."

    @cached_property
    def ids(self) -> list[tuple[Tensor, Tensor]]:
        """Of a language model's batches: tokens (N, T), labels (N, T)"""
        pairs = [(_ids(x), y) for x, y in self.train.batches] if self.train else []
        return [(t, y) for t, y in pairs if t is not None and isinstance(y, Tensor) and y.shape == t.shape]


def _is_frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters(recurse=False))


def _ids(x) -> Tensor | None:
    if isinstance(x, Mapping):
        x = next((x[name] for name in ("input_ids", "ids") if name in x), None)
    whole = isinstance(x, Tensor) and x.ndim == 2 and not x.is_floating_point()
    return x if whole else None
