"""Pretrained extractors f: x -> z, each with its feature size, its stages and its preprocessing.

x is a batch of pictures (N, 3, H, W), of texts or of sounds, and z (N, D); `BACKBONES` says which (`inputs`).

f is also called feature extractor, body, trunk or encoder; z features, representation or embedding.
"""

import copy
import difflib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from sftlib.backbones import decoders, encoders, smollm2
from sftlib.backbones.catalogue import BACKBONES, CLASSES
from sftlib.backbones.folding import fold_batchnorm
from sftlib.backbones.preprocessing import Preprocess
from sftlib.backbones.smollm2_export import as_transformers, export_model
from sftlib.backbones.spec import INPUTS, Spec
from sftlib.backbones.texts import Texts
from sftlib.model import Model

__all__ = [
    "BACKBONES",
    "Backbone",
    "Preprocess",
    "Spec",
    "as_transformers",
    "export_model",
    "fold_batchnorm",
    "load_backbone",
    "load_encoder",
    "load_language_model",
    "load_model",
    "load_source_head",
]


Nest = Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]


class Backbone(nn.Module):
    """x -> z (N, D): stages one after the other, each from what the one before gives; the last of them gives z

    Pictures: x (N, 3, H, W), between the stages maps. Texts and sound: x and what is between the stages are nests,
    tensors in a dict or a tuple, the mask or the lengths among them.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        name: str,
        feature_dim: int,
        preprocess: Callable,
        pretrained: bool = False,
    ):
        super().__init__()
        for stage, module in stages.items():
            self.add_module(stage, module)
        self.stages = tuple(stages)
        self.name = name
        self.feature_dim = feature_dim
        self.preprocess = preprocess
        self.pretrained = pretrained

    def forward(self, x: Nest) -> Tensor:
        """x, as `preprocess` makes it -> z (N, D)"""
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return x

    def lower(self, x: Nest, stage: str) -> Nest:
        """x -> h: the stages up to and including `stage`"""
        for name in self.stages[: self._position(stage) + 1]:
            x = getattr(self, name)(x)
        return x

    def upper(self, h: Nest, stage: str) -> Tensor:
        """h, the output of `stage` -> z (N, D): the stages above it"""
        for name in self.stages[self._position(stage) + 1 :]:
            h = getattr(self, name)(h)
        return h

    def source_logits(self, x: Tensor) -> Tensor:
        """x (N, 3, H, W) -> (N, S): what the network's own head, as published, says of the S source classes

        The head is no part of f: it is loaded at the first call and is not trained, frozen, counted or saved with f.
        """
        _require_head(self.name)
        if not self.pretrained:
            raise ValueError(
                f"{self.name} has random weights, so no head belongs to it; expected pretrained weights: "
                f"load_backbone({self.name!r}) loads them"
            )
        anchor = next(self.parameters())
        head, reads = _source_head_on(self.name, anchor.device, anchor.dtype)
        return head(self.lower(x, reads))

    @property
    def source_classes(self) -> list[str]:
        """Names of the S classes that `source_logits` scores."""
        _require_head(self.name)
        return list(CLASSES)

    @property
    def tokenizer(self):
        """Of a network for texts: its tokenizer, of Hugging Face's transformers"""
        if not isinstance(self.preprocess, Texts):
            raise ValueError(f"{self.name} does not read texts, so it has no tokenizer; expected a network for texts")
        return self.preprocess.tokenizer

    @property
    def input_size(self) -> int | None:
        """What `preprocess` makes: pictures of so many pixels a side, texts of so many tokens at most."""
        return self.preprocess.size

    def _position(self, stage: str) -> int:
        if stage not in self.stages:
            raise ValueError(f"got stage {stage!r}; expected one of {', '.join(self.stages)}")
        return self.stages.index(stage)

    def extra_repr(self) -> str:
        return f"{self.name}, D={self.feature_dim}, pretrained={self.pretrained}"


def load_backbone(name: str, *, pretrained: bool = True, size: int | None = None) -> Backbone:
    """A network of `BACKBONES` without its head, in eval mode; all its parameters can be trained.

    size: None takes the evaluation transform that was published with the weights; a number S takes pictures whose
    shorter side is resized to S pixels, middle square kept, or texts of S tokens at most. ConnectionError when weights
    have to be downloaded and cannot be; those whose `BACKBONES[name].offline` is True need no network.
    """
    spec = _spec(name)
    preprocess = spec.preprocess.at(size)
    if spec.fixed_size and preprocess.size != spec.input_size:
        raise ValueError(
            f"{name} has one learned position per patch and takes pictures of {spec.input_size} pixels, got "
            f"size={size}; pass size={spec.input_size}, or choose a convolutional network"
        )
    network = (spec.empty or spec.build)() if pretrained else spec.build()
    if pretrained:
        spec.fill(network)
    backbone = Backbone(
        spec.cut(network).stages,
        name=name,
        feature_dim=spec.feature_dim,
        preprocess=preprocess,
        pretrained=pretrained,
    )
    return backbone.eval()


def load_encoder(name: str | Path, *, size: int | None = None) -> Backbone:
    """A text encoder of Hugging Face's by its name there, or a folder that ``save_pretrained`` wrote, in eval mode

    z (N, D) is the masked mean of what its last layer says of the tokens. size: tokens of a text at most; None: 256,
    or as many as it knows. Code that comes with weights is not run. ConnectionError where it is not on this machine
    and cannot be fetched.
    """
    stages, feature_dim, preprocess = encoders.read(name, size=size)
    f = Backbone(stages, name=str(name), feature_dim=feature_dim, preprocess=preprocess, pretrained=True)
    return f.eval()


def load_language_model(name: str | Path, *, size: int | None = None) -> decoders.Decoded:
    """A causal language model of Hugging Face's by its name there, or a folder that ``save_pretrained`` wrote: g ∘ f

    As `load_model`: {ids, mask, answer} -> logits (N, V, A), in float32 and eval mode. Code that comes with weights is
    not run. ConnectionError where it is not on this machine and cannot be fetched; ValueError for one that does more
    behind its body than one product with its output matrix, or is not causal.
    """
    stages, feature_dim, preprocess, net = decoders.read(name, size=size)
    f = Backbone(stages, name=str(name), feature_dim=feature_dim, preprocess=preprocess, pretrained=True)
    return decoders.require_sound(decoders.Decoded(f, net).eval(), name)


def load_model(name: str, *, pretrained: bool = True, size: int | None = None) -> Model:
    """A whole language model: f = `load_backbone(name)` and g = its output matrix, which is f's embedding too.

    {ids (N, T), mask (N, T), answer (N, A)} -> logits (N, V, A). They share it until `sftlib.adaptation.untie`.
    """
    if _spec(name).name != smollm2.SPEC.name:
        raise ValueError(
            f"{name} was published without an output matrix; expected {smollm2.SPEC.name}, or a head of your own: "
            f"Model(load_backbone({name!r}), LinearHead({_spec(name).feature_dim}, K))"
        )
    return smollm2.joined(load_backbone(name, pretrained=pretrained, size=size)).eval()


def load_source_head(name: str) -> tuple[nn.Module, str]:
    """The head that was published with the weights, in eval mode, and the stage whose output it reads."""
    spec = _require_head(name)
    network = spec.build()
    spec.fill(network)
    cut = spec.cut(network)
    return copy.deepcopy(cut.head).eval(), cut.head_reads


@lru_cache(maxsize=4)
def _source_head_on(name: str, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, str]:
    head, reads = load_source_head(name)
    return head.to(device=device, dtype=dtype).requires_grad_(False), reads


def _require_head(name: str) -> Spec:
    spec = _spec(name)
    if spec.inputs != "pictures":
        raise ValueError(f"{name} was published without a classifier of its own; expected a network for pictures")
    return spec


def _spec(name: str) -> Spec:
    if name in BACKBONES:
        return BACKBONES[name]
    close = difflib.get_close_matches(str(name), BACKBONES, n=1)
    # A network of another kind would be no help: all kinds are listed only where nothing is known of the one meant.
    kinds = [BACKBONES[close[0]].inputs] if close else INPUTS
    lists = "; ".join(f"{', '.join(n for n, s in BACKBONES.items() if s.inputs == kind)} ({kind})" for kind in kinds)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"got the backbone {name!r}; {hint}expected one of {lists}")
