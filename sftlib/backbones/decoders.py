"""Language models of Hugging Face's transformers, by name or from a folder: the body is f, the output matrix g.

{ids, mask, answer} -> z (N, A, D), gathered where an answer's token is predicted -> (N, V, A).
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sftlib.backbones.bars import without_bars
from sftlib.backbones.halves import behind, of_body, require_halves
from sftlib.backbones.smollm2 import LanguageModel
from sftlib.backbones.texts import Texts, at_answers, require_answers
from sftlib.model import TokenHead


class Decoder(nn.Module):
    """{ids (N, T), mask (N, T), answer (N, A)} -> {h (N, T, D), answer}: a body of transformers, whole"""

    def __init__(self, body: nn.Module, longest: int):
        super().__init__()
        self.body, self.longest = body, longest

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{ids, mask, answer} -> {h (N, T, D), answer}"""
        require_answers(x, self.longest)
        h = self.body(input_ids=x["ids"], attention_mask=x["mask"].long(), use_cache=False).last_hidden_state
        return {"h": h, "answer": x["answer"]}


class Gathered(nn.Module):
    """{h (N, T, D), answer (N, A)} -> z (N, A, D): h where an answer's token is predicted"""

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """{h, answer} -> z (N, A, D)"""
        return at_answers(x["h"], x["answer"])


class Decoded(LanguageModel):
    """f and g of a network of transformers, whose tensors they are: ``net``, which sees what is learned"""

    def __init__(self, backbone: nn.Module, net: nn.Module):
        super().__init__(backbone, TokenHead(net.get_output_embeddings().weight))
        self._net = (net,)  # in a tuple, so that its names stay out of the state
        self._around, self._list = _layers_of(net.base_model)

    @property
    def net(self) -> nn.Module:
        """The network of transformers"""
        return self._net[0]

    @property
    def layers(self) -> list[nn.Module]:
        """The layers of f, the input's first"""
        return list(self.net.base_model.get_submodule(self._list))

    @property
    def closing(self) -> list[nn.Module]:
        """What computes behind the layers and has vectors only: the last normalisation"""
        children = self.net.base_model.get_submodule(self._around).children()
        vectors = [m for m in children if (p := list(m.parameters())) and all(t.ndim == 1 for t in p)]
        return behind(self.net.base_model, self.layers[-1], vectors)

    def halves(self, k: int) -> tuple[Callable, nn.Module]:
        """As `LanguageModel.halves`; of a body that hands on more than h between its layers it is no f: compare z"""
        require_halves(k, len(self.layers))
        lower, upper = of_body(self.net.base_model, self._list, k)
        return lower, nn.Sequential(OrderedDict(decoder=upper, answers=self.backbone.answers))


def _layers_of(body: nn.Module) -> tuple[str, str]:
    """-> the names of the module around the list of layers, and of the list"""
    for name, module in body.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            return name.rpartition(".")[0], name
    raise ValueError(f"got a {type(body).__name__} without a list of layers; expected a Transformer, as Llama is one")


def tokenizer_of(name: str | Path):
    """The tokenizer of a network of Hugging Face's; ConnectionError where it is neither here nor to be had"""
    from transformers import AutoTokenizer  # takes seconds

    return _fetched(lambda: AutoTokenizer.from_pretrained(name), name)


def read(name: str | Path, *, size: int | None) -> tuple[dict[str, nn.Module], int, Texts, nn.Module]:
    """-> stages, D, preprocessing, the whole network; see `sftlib.backbones.load_language_model`"""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _fetched(lambda: AutoConfig.from_pretrained(name), name)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"got {name}, a {config.model_type} with an encoder; expected a decoder alone, as Llama")
    tokenizer = tokenizer_of(name)
    net = _fetched(lambda: AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), name)
    most = tokenizer.model_max_length
    most = min(most, getattr(net.config, "max_position_embeddings", most))
    preprocess = Texts(lambda: tokenizer, size=min(2048, most), most=most, answers=True).at(size)
    return {"decoder": Decoder(net.base_model, most), "answers": Gathered()}, net.config.hidden_size, preprocess, net


def _fetched(load: Callable, name: str | Path):
    try:
        with without_bars():
            return load()
    except OSError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ConnectionError(
            f"the language model {name} is not on this machine and could not be fetched ({said}); expected a network "
            "and a name as Hugging Face spells it, or a folder that save_pretrained wrote. Without either: "
            "load_model('smollm2_135m')"
        ) from error


@torch.no_grad()
def require_sound(model: Decoded, name: str | Path) -> Decoded:
    """The same; ValueError unless g(f(x)) is what the network itself says, and no token sees a later one"""
    vocabulary = model.head.weight.shape[0]
    ids = torch.arange(1, 6)[None] % vocabulary
    x = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "answer": torch.arange(5)[None]}
    ours, whole = model(x)[0].T, model.net(input_ids=ids).logits[0].float()
    if not torch.allclose(ours, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise ValueError(
            f"{name} does more behind its body than one product with its output matrix (a bias, a scale, a cap on the "
            "logits); expected a network without, such as Llama, Mistral, Qwen or SmolLM: what was learned here would "
            "not be what it computes"
        )
    less = {key: value[:, :3] for key, value in x.items()}
    if not torch.allclose(model(less)[0].T, ours[:3], rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise ValueError(f"in {name} a token sees later ones; expected a causal language model, as Llama is one")
    return model


@torch.no_grad()
def twin(model: Decoded) -> nn.Module:
    """-> the network of transformers, in eval mode, whose tensors are those of f and g; LoRA gives W + ΔW, a copy"""
    net, config = model.net, copy.deepcopy(model.net.config)
    config.tie_word_embeddings = model.head.weight is net.get_input_embeddings().weight
    with torch.device("meta"):
        other = type(net)(config)
    own = {name: _at(net, name).detach() for name in other.state_dict()}
    own |= {f"{name}.weight": model.head.weight.detach() for name, m in _outputs(net)}
    other.load_state_dict(own, assign=True)
    for name, buffer in net.named_buffers():
        owner, _, last = name.rpartition(".")
        if name not in own and not name.endswith(".merged"):
            setattr(other.get_submodule(owner), last, buffer)
    other.generation_config = net.generation_config
    return other.requires_grad_(False).eval()


def _outputs(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The output matrix's module, with its name"""
    return [(name, m) for name, m in net.named_modules() if m is net.get_output_embeddings()]


def _at(net: nn.Module, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    return getattr(net.get_submodule(owner), last)
